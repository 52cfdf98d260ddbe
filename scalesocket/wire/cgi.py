"""CGI variables (RFC 3875) of the request that opened a room."""

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
"""Request headers that become `HTTP_*` variables. Not `proxy`: programs read `HTTP_PROXY` as a setting (CVE-2016-5385)."""

UNBUFFERED: Final = {"PYTHONUNBUFFERED": "1"}
"""Makes Python programs send the output of `print` without a flush. An empty value disables it (python(1))."""

_VARIABLES: Final = {name: "HTTP_" + name.upper().replace("-", "_") for name in PASSED_HEADERS}
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


def environment(request: Request, *, app: str, room: str, script_name: str, path_info: str, software: str) -> dict[str, str]:
    """Return the CGI variables of a websocket's request, and `APP` and `ROOM`.

    `script_name`: the decoded path up to the app's mount. `path_info`: the rest of the path. `software`: name and version of this
    server. Only `PASSED_HEADERS` are passed, under fixed names, so that no header can imitate another variable. `REMOTE_ADDR` is
    `ip:port`, as in the original. Control characters in values, some of which `exec` would refuse, become `?`.
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
    if _CONTROLS.search("".join(variables.values())):  # one search for all values takes a quarter of the time
        return {variable: _CONTROLS.sub("?", value) for variable, value in variables.items()}
    return variables


def base_environment(env: Mapping[str, str], pass_env: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that all backends of an app share: UNBUFFERED, those of `environ` that `pass_env` names, and `env`."""
    return {**UNBUFFERED, **{name: environ[name] for name in pass_env if name in environ}, **env}


def _server(request: Request) -> tuple[str, str]:
    """Return the server name and port of the request (RFC 3875 4.1.14 and 4.1.15), or else those of the connection."""
    host = _HOST.fullmatch(request.headers.get("host", ""))
    name = host[1] if host else request.local[0] if request.local else "localhost"
    if request.local:
        return name, str(request.local[1])
    return name, host[2] if host and host[2] else "443" if request.is_secure else "80"
