"""Values of HTTP header fields in the site file: response headers of static files, origins and subprotocols."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

from scalesocket.config.values import one_or_more, read_list

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5, without the obsolete bytes beyond ASCII

DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
"""The port of a URL that has none, by scheme."""

CONNECTION_FIELDS: Final = frozenset(
    {
        *("connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)
"""Fields about one connection (RFC 9110 7.6.1), which HTTP/2 forbids."""
FILE_FIELDS: Final = frozenset(
    {
        *("accept-ranges", "content-encoding", "content-length", "content-range", "content-type", "date", "etag"),
        *("last-modified", "location"),
    }
)
"""Fields whose value depends on the file and the request."""


def check_name(name: str) -> str:
    """Check the name of a response header; raises ValueError with a hint."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f'{name!r} is not a header name (write for example "Cache-Control")')
    if name.lower() in CONNECTION_FIELDS or name.lower().startswith("sec-websocket-"):
        raise ValueError(f"{name} is set by the server for each connection (delete it)")
    if name.lower() in FILE_FIELDS:
        raise ValueError(f"{name} is set by the server for each file (delete it)")
    return name


def check_value(value: str) -> str:
    """Check the value of a response header; raises ValueError with a hint."""
    if not _VALUE.fullmatch(value):
        wrong = next(character for character in value if not _VALUE.fullmatch(character))
        kind = "a control character" if wrong < " " or wrong == "\x7f" else "a character that is not ASCII"
        raise ValueError(f"contains {kind}, {wrong!a} (delete it)")
    if value != value.strip(" \t"):
        raise ValueError(f"{value!r} begins or ends with a space (write {value.strip()!r})")
    return value


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Check that no two names differ by case alone; raises ValueError with a hint."""
    seen: dict[str, str] = {}
    for name in headers:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            raise ValueError(f"{first} and {name} are the same header (keep one of them)")
    return headers


def _check_origin(origin: str) -> str:
    if origin in ("*", "null"):
        return origin
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s*]+", origin):
        raise ValueError(f'{origin!r} is not an origin (write "https://example.com", with its port if it has one, or "*")')
    scheme, _, host = origin.lower().partition("://")
    return f"{scheme}://{host.removesuffix(f':{DEFAULT_PORTS.get(scheme)}')}"  # as browsers do (RFC 6454 6.2)


def _check_subprotocol(name: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):  # RFC 6455 4.1
        wrong = next((character for character in name if not re.match(r"[!#$%&'*+.^_`|~0-9A-Za-z-]", character)), "")
        reason = f"it contains {wrong!r}" if wrong else "it is empty"
        raise ValueError(f'{str(name)!r} is not a subprotocol name: {reason} (write for example "mqtt", or "*" for any)')
    return name


Headers = Annotated[
    dict[Annotated[str, AfterValidator(check_name)], Annotated[str, AfterValidator(check_value)]], AfterValidator(check_headers)
]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(read_list), one_or_more("string or list")
]
Subprotocols = Annotated[
    tuple[Annotated[str, AfterValidator(_check_subprotocol)], ...], BeforeValidator(read_list), one_or_more("string or list")
]
