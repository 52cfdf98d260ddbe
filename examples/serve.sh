#!/bin/sh
# Serve the example site with the TCP server that its app `mud` talks to; both end together.
# Wants `scalesocket` and `python3` on PATH, which `make serve` sees to. Arguments go to `scalesocket serve`.

cd "$(dirname "$0")" || exit
python3 mud/mud.py "127.0.0.1:${MUD_PORT:-4000}" &
mud=$!
# In a process group of its own, Ctrl-C reaches the site through the trap below alone: twice would mean "at once".
python3 -c 'import os, sys; os.setpgrp(); os.execvp(sys.argv[1], sys.argv[1:])' scalesocket serve site.toml "$@" &
site=$!
trap 'exec 2>/dev/null; kill $mud; wait $mud' EXIT
trap 'kill -TERM $site' HUP INT TERM

# A signal ends `wait` early: wait again until the site is really gone.
while
    wait $site
    code=$?
    kill -0 $site 2>/dev/null
do :; done
exit $code
