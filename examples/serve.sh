#!/bin/sh
# Serve the example site with the TCP server that its app `mud` connects to; both end together.
# Wants `scalesocket` and `python3` on PATH, which `make serve` sees to. Arguments go to `scalesocket serve`.
#
#   BIND=127.0.0.1:8000   listen there instead of where site.toml says. The mud then takes any free port, and the site a
#                         control socket of its own if another server runs it: it works beside another `make serve`.
#   MUD_PORT=4001         the port of the mud, on 127.0.0.1; 4000 if neither is given

cd "$(dirname "$0")" || exit
if [ -n "${BIND:-}" ]; then
    set -- --bind "$BIND" "$@"
    : "${MUD_PORT:=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')}"
    if [ -z "${CONTROL:-}" ] && scalesocket status site.toml >/dev/null 2>&1; then
        export CONTROL="${TMPDIR:-/tmp}/scalesocket-example-$$.sock"
        echo "another server runs this site; to ask this one: CONTROL=$CONTROL scalesocket status examples/site.toml"
    fi
fi
export MUD_PORT="${MUD_PORT:-4000}"

python3 - "$MUD_PORT" <<'PYTHON' || exit
import os, socket, sys

try:
    socket.create_server(("127.0.0.1", int(sys.argv[1]))).close()
except (OSError, ValueError, OverflowError) as error:
    why = os.strerror(error.errno) if isinstance(error, OSError) else "not a port"
    sys.exit(f"""serve.sh: the mud cannot listen on 127.0.0.1:{sys.argv[1]}: {why}
serve.sh: stop what listens there, or choose another port: make serve MUD_PORT=4001""")
PYTHON
python3 mud/mud.py "127.0.0.1:$MUD_PORT" &
mud=$!
# In a process group of its own, Ctrl-C reaches the site through the trap below alone: twice would mean "at once".
python3 -c 'import os, sys; os.setpgrp(); os.execvp(sys.argv[1], sys.argv[1:])' scalesocket serve site.toml "$@" &
site=$!
is_told=
trap 'exec 2>/dev/null; kill $mud; wait $mud' EXIT
trap 'is_told=yes; kill -TERM $site' HUP INT TERM

# A signal ends `wait` early: wait again until the site is really gone.
while
    wait $site
    code=$?
    kill -0 $site 2>/dev/null
do :; done
if [ $code -eq 1 ] && [ -z "$is_told" ]; then
    echo "serve.sh: the site has ended, the error above says why. If its address is in use: make serve BIND=127.0.0.1:8000" >&2
fi
exit $code
