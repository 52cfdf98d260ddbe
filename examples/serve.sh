#!/bin/sh
# Serve the example site with the TCP server that its app `mud` talks to; both end together.
# Wants `scalesocket` and `python3` on PATH, which `make serve` sees to. Arguments go to `scalesocket serve`.

cd "$(dirname "$0")" || exit
python3 mud/mud.py "127.0.0.1:${MUD_PORT:-4000}" &
mud=$!
scalesocket serve site.toml "$@" &
site=$!
trap 'exec 2>/dev/null; kill $mud; wait $mud' EXIT
trap 'kill -TERM $site' INT TERM  # a background job of sh ignores SIGINT: both signals reach it as SIGTERM

# A signal ends `wait` early: wait again until the site is really gone.
while
    wait $site
    code=$?
    kill -0 $site 2>/dev/null
do :; done
exit $code
