"""The opening handshake (RFC 6455 4.2): parsing a request head, checking an upgrade, and its response."""

import hashlib
import re
from binascii import b2a_base64
from collections.abc import Sequence
from typing import Final, NamedTuple

from scalesocket.wire.authority import parse_authority

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VISIBLE: Final = bytes(byte for byte in range(256) if (byte >= 0x20 and byte != 0x7F) or byte == 0x09)
# Any base64 is accepted, not only the 16 bytes of RFC 6455 4.1: the key in the quick start of the original,
# SGVsbG8sIHdvcmxkIQ==, decodes to 13.
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{2,64}={0,2}")
_ABSOLUTE: Final = re.compile(r"(?:https?|wss?)://([^/?#]*)(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE)
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_MAX_NAMES: Final = 1024
_MAX_NAME: Final = 64


class HandshakeError(Exception):
    """A request head is not that of a valid websocket upgrade: the HTTP status, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Request(NamedTuple):  # made in a third of the time of a frozen dataclass
    """The head of an HTTP request."""

    method: str
    target: str
    """As in the request line."""
    path: str
    """The target up to `?`, still percent-encoded."""
    query: str
    """What follows `?`, still percent-encoded; empty without `?`."""
    headers: dict[str, str]
    """Names in lower case; the values of a repeated field are joined by `, ` (RFC 9110 5.3)."""
    peer: tuple[str, int] | None
    """Address and port of the client, as reported by a trusted proxy if there is one; None on a unix socket."""
    local: tuple[str, int] | None
    """Address and port the client connected to; None on a unix socket."""
    is_secure: bool
    http_version: str
    """`1.0`, `1.1` or `2`."""
    is_proxied: bool = False
    """Whether a proxy reported the client with the PROXY protocol."""

    def __repr__(self) -> str:
        """Show neither query nor headers: the event loop logs the arguments of a callback that fails."""
        return f"Request({self.method!r}, {self.path!r})"

    @property
    def remote(self) -> str:
        """Return `ip:port` of the client, `[ip]:port` for IPv6; empty on a unix socket."""
        return format_address(self.peer)


def format_address(address: tuple[str, int] | None) -> str:
    """Return `ip:port`, or `[ip]:port` for IPv6; empty for None."""
    if address is None:
        return ""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


NO_PATH: Final = "the request target is not a path: it must start with /"
BAD_REQUEST_LINE: Final = "the request line is not METHOD PATH HTTP/VERSION"
HAS_BODY: Final = "a websocket upgrade must not have a body"
BARE_LF: Final = "a line of the request head ends with LF alone (it must be CRLF)"


def has_bare_line_feed(head: bytes, start: int = 0, end: int | None = None) -> bool:
    """Return whether a line of a head, between these positions, ends with LF alone."""
    return _BARE_LF.search(head, start, len(head) if end is None else end) is not None


_names: dict[str, str] = {}  # valid field names to lower case, so that each is checked once


def _new_name(name: str) -> str:
    """Check a field name and return it in lower case."""
    if not _TOKEN.fullmatch(name):
        raise HandshakeError(400, "the name of a header field is not valid")
    lower = name.lower()
    if len(_names) < _MAX_NAMES and len(name) <= _MAX_NAME:
        _names[name] = lower
    return lower


def parse_request(head: bytes, *, peer: tuple[str, int] | None, local: tuple[str, int] | None, is_secure: bool) -> Request:
    """Parse a request head of HTTP/1.1 (RFC 9112 3 and 5), without the empty line at its end.

    Raises HandshakeError (400) if it is malformed.
    """
    head = head.removeprefix(b"\r\n")  # RFC 9112 2.2
    text = head.decode("latin-1")
    request_line, *fields = text.split("\r\n")
    if head.translate(None, _VISIBLE) != b"\r\n" * len(fields):  # only the line ends are left
        raise HandshakeError(400, BARE_LF if has_bare_line_feed(head) else "the request head has control characters")
    try:
        method, target, version = request_line.split(" ")
    except ValueError:
        raise HandshakeError(400, BAD_REQUEST_LINE) from None
    if not version.startswith("HTTP/"):
        raise HandshakeError(400, BAD_REQUEST_LINE)
    headers = _parse_fields(fields)
    if target.startswith("/"):
        path, _, query = target.partition("?")
    else:
        absolute = split_absolute(target)
        if absolute is None:
            raise HandshakeError(400, NO_PATH)
        authority, path, query = absolute
        if parse_authority(headers.get("host", "")) is not None:  # else the request is refused for its Host
            headers["host"] = authority
    if not query.isascii():
        query = decode_utf8(query)
    return Request(method, target, path, query, headers, peer, local, is_secure, version.removeprefix("HTTP/"))


def _parse_fields(fields: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon:
            raise HandshakeError(400, "a header field has no colon")
        name = _names.get(name) or _new_name(name)
        value = value.strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name == "host":
            raise HandshakeError(400, "there are two Host headers")  # RFC 9112 3.2
        else:
            headers[name] = f"{headers[name]}{separator_of(name)}{value}"
    return headers


def separator_of(name: str) -> str:
    """Return what joins the values of a repeated field: `; ` for cookies (RFC 9113 8.2.3), `, ` for others (RFC 9110 5.3)."""
    return "; " if name == "cookie" else ", "


def split_absolute(target: str) -> tuple[str, str, str] | None:
    """Return authority, path and query of a target in absolute form (RFC 9112 3.2.2). The authority replaces the Host header.

    None for a target in another form or of another scheme. The authority is not checked.
    """
    match = _ABSOLUTE.fullmatch(target)
    return None if match is None else (match[1], match[2] or "/", match[3] or "")


def decode_utf8(value: str) -> str:
    """Decode a part of a head, in which each character stands for a byte, as UTF-8."""
    return value if value.isascii() else value.encode("latin-1", "replace").decode(errors="replace")


def has_token(value: str, token: str) -> bool:
    """Return whether a comma-separated field has `token` (in lower case)."""
    value = value.lower()
    return value == token or token in (item.strip() for item in value.split(","))


def check_upgrade(request: Request) -> str:
    """Check a request by RFC 6455 4.2.1 and return the client's key.

    Raises HandshakeError: 400, or 426 for another version of the protocol.
    """
    headers = request.headers
    if request.method != "GET":
        raise HandshakeError(400, "a websocket upgrade must have the method GET")
    if request.http_version != "1.1":
        raise HandshakeError(400, "a websocket upgrade needs HTTP/1.1")
    if "host" not in headers:
        raise HandshakeError(400, "the Host header is missing")
    if not has_token(headers.get("connection", ""), "upgrade"):
        raise HandshakeError(400, "the Connection header lacks Upgrade (does a proxy remove it?)")
    if headers.get("sec-websocket-version") != "13":
        raise HandshakeError(426, "the Sec-WebSocket-Version must be 13")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise HandshakeError(400, HAS_BODY)
    key = headers.get("sec-websocket-key", "")
    if not _KEY.fullmatch(key):
        raise HandshakeError(400, "the Sec-WebSocket-Key is missing or not base64")
    return key


def accept_key(key: str) -> bytes:
    """Return the value of `Sec-WebSocket-Accept` for `key` (RFC 6455 4.2.2)."""
    return b2a_base64(hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest(), newline=False)


def offered_subprotocols(value: str) -> tuple[str, ...]:
    """Parse a `Sec-WebSocket-Protocol` header: the names that a client offers, in the order of its preference.

    Raises HandshakeError (400) unless they are different tokens (RFC 6455 4.1). Empty list elements are ignored
    (RFC 9110 5.6.1.2).
    """
    names = tuple(name for element in value.split(",") if (name := element.strip(" \t")))
    if not names or not all(map(_TOKEN.fullmatch, names)):
        raise HandshakeError(400, "the Sec-WebSocket-Protocol header is not a list of names")
    if len(set(names)) < len(names):
        raise HandshakeError(400, "the Sec-WebSocket-Protocol header has a name twice")
    return names


def choose_subprotocol(offered: Sequence[str], listed: Sequence[str]) -> str | None:
    """Return the first offered name that is listed; `*` lists every name. None if there is none."""
    return next((name for name in offered if name in listed or "*" in listed), None)
