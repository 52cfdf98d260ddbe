#!/bin/sh
# Serve the example site with the TCP server that its app `mud` connects to; both end together.
# Needs `scalesocket` and `python3` on PATH; `make serve` provides them. Arguments go to `scalesocket serve`.
#
#   BIND=127.0.0.1:8000   listen on this address instead of the one in site.toml. The mud then uses any free port. If another
#                         server runs this site, the new one gets a control socket of its own.
#   MUD_PORT=4001         the port of the mud, on 127.0.0.1; the default without BIND is 4000

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
# The site has a process group of its own, so that Ctrl-C reaches it through the trap below only: a second signal would stop it at once.
python3 -c 'import os, sys; os.setpgrp(); os.execvp(sys.argv[1], sys.argv[1:])' scalesocket serve site.toml "$@" &
site=$!
is_signalled=
trap 'exec 2>/dev/null; kill $mud; wait $mud' EXIT
trap 'is_signalled=yes; kill -TERM $site' HUP INT TERM

# A signal interrupts `wait`: wait again until the site has exited.
while
    wait $site
    code=$?
    kill -0 $site 2>/dev/null
do :; done
if [ $code -eq 1 ] && [ -z "$is_signalled" ]; then
    echo "serve.sh: the site has ended, the error above says why. If its address is in use: make serve BIND=127.0.0.1:8000" >&2
fi
exit $code
