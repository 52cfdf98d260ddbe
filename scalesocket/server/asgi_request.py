"""Reads a request from an ASGI scope."""

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

from scalesocket.server.hypercorn.state import PEER, PROXIED
from scalesocket.wire.authority import parse_authority
from scalesocket.wire.handshake import Request, decode_utf8, separator_of, split_absolute

Scope = MutableMapping[str, Any]


def request_of(scope: Scope) -> Request:
    """Make the request head, as admission and CGI variables need it, from an ASGI scope."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}{separator_of(name)}{value}" if name in headers else value
    path, query = scope["raw_path"].decode("latin-1"), decode_utf8(scope["query_string"].decode("latin-1"))
    state = scope.get("state", {})
    peer = state.get(PEER) or scope.get("client")
    local = scope.get("server")
    return Request(
        method="GET",  # over HTTP/2 it is CONNECT, which means nothing to a backend (RFC 8441 5)
        target=f"{path}?{query}" if query else path,
        path=path,
        query=query,
        headers=headers,
        peer=(peer[0], peer[1]) if peer else None,
        local=(local[0], local[1]) if local else None,
        is_secure=scope["scheme"] in ("wss", "https"),
        http_version=scope["http_version"],
        is_proxied=bool(state.get(PROXIED)),
    )


def normalize_target(scope: Scope) -> None:
    """Normalize the target of a request, in place.

    An absolute target (`GET http://host/path`, RFC 9112 3.2.2) becomes its path, and its authority replaces the Host header. An
    invalid Host header stays, so that the request is refused for it. In the decoded path an escaped slash stays escaped, because
    it does not separate segments (RFC 3986 2.2).
    """
    raw_path = scope["raw_path"].decode("latin-1")
    absolute = None if raw_path.startswith("/") or scope["http_version"] == "2" else split_absolute(raw_path)
    if absolute is not None:
        authority, raw_path, _ = absolute  # the server has split off the query already
        scope["raw_path"], scope["path"] = raw_path.encode("latin-1"), unquote(raw_path)
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        if all(parse_authority(value.decode("latin-1")) is not None for name, value in headers if name == b"host"):
            scope["headers"] = [(b"host", authority.encode("latin-1")), *(header for header in headers if header[0] != b"host")]
    if "%2f" in raw_path.lower():
        scope["path"] = unquote(re.sub("%2f", "%252F", raw_path, flags=re.IGNORECASE))


def has_body(request: Request) -> bool:
    """Whether a request has a body."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def is_framed_twice(request: Request) -> bool:
    """Whether a request states its length in two ways, of which a proxy may have used the other one (RFC 9112 6.1)."""
    return "transfer-encoding" in request.headers and "content-length" in request.headers
