#!/bin/sh
# Serve the example site with the TCP server that its app `mud` talks to; both end together. Arguments go to `scalesocket serve`.
# Wants `scalesocket` and `python3` on PATH; `make serve` sees to that.

cd "$(dirname "$0")" || exit
python3 mud/mud.py "127.0.0.1:${MUD_PORT:-4000}" &
mud=$!
scalesocket serve site.toml "$@" &
site=$!
trap 'kill $mud 2>/dev/null' EXIT
trap 'kill -TERM $site' INT TERM  # a background job of sh ignores SIGINT: both signals reach it as SIGTERM

# A signal ends `wait` early: wait again until the site is really gone.
wait $site
code=$?
while kill -0 $site 2>/dev/null; do
    wait $site
    code=$?
done
exit $code
