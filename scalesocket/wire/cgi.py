"""What a child's environment says about the request that opened its room (RFC 3875), and nothing else."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from scalesocket.wire.handshake import Request, decode_utf8

PASSED_HEADERS: Final = (
    "accept",
    "accept-encoding",
    "accept-language",
    "cookie",
    "host",
    "origin",
    "referer",
    "sec-websocket-protocol",
    "traceparent",
    "user-agent",
    "x-request-id",
)
"""Request headers a child gets as `HTTP_*`. Never `proxy`: programs take `HTTP_PROXY` for a setting (CVE-2016-5385)."""

UNBUFFERED: Final = {"PYTHONUNBUFFERED": "1"}
"""Makes the output of `print` in a Python program arrive without a flush. The empty value turns it off (python(1))."""

_VARIABLES: Final = {name: "HTTP_" + name.upper().replace("-", "_") for name in PASSED_HEADERS}
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


def environment(request: Request, *, app: str, room: str, script_name: str, path_info: str, software: str) -> dict[str, str]:
    """Describe a request in the words of RFC 3875, as far as a websocket has them, with `APP` and `ROOM`.

    `script_name` and `path_info`: the decoded path up to the app's mount, and what follows it. `software`: name and
    version of this server. Only the headers in `PASSED_HEADERS` come along, under names that stand in a table, so that no
    header can pose as another variable. `REMOTE_ADDR` is `ip:port`, as the original has it. What `exec` would refuse in a
    value, and any other control character, becomes `?`.
    """
    name, port = _server(request)
    variables = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": software,
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{request.http_version}",
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": request.query,
        "REMOTE_ADDR": request.remote,
        "REMOTE_HOST": request.peer[0] if request.peer else "",
        "REMOTE_PORT": str(request.peer[1]) if request.peer else "",
        "APP": app,
        "ROOM": room,
    }
    if request.is_secure:
        variables["HTTPS"] = "on"
    for header, variable in _VARIABLES.items():
        value = request.headers.get(header)
        if value is not None:
            variables[variable] = decode_utf8(value)
    if _CONTROLS.search("".join(variables.values())):  # one look at all: 1 us, where a look at each takes 4
        return {variable: _CONTROLS.sub("?", value) for variable, value in variables.items()}
    return variables


def base_environment(env: Mapping[str, str], pass_env: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the environments of all children of an app share: UNBUFFERED, what `pass_env` names of `environ`, `env`."""
    return {**UNBUFFERED, **{name: environ[name] for name in pass_env if name in environ}, **env}


def _server(request: Request) -> tuple[str, str]:
    """Name and port the client asked for (RFC 3875 4.1.14 and 4.1.15), or else those it reached."""
    host = _HOST.fullmatch(request.headers.get("host", ""))
    name = host[1] if host else request.local[0] if request.local else "localhost"
    if request.local:
        return name, str(request.local[1])
    return name, host[2] if host and host[2] else "443" if request.is_secure else "80"
