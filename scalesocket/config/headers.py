"""The response headers that a site file may add to an app's static files, checked so that no answer can be broken by them."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5, without the obsolete bytes beyond ASCII

OF_CONNECTION: Final = frozenset(
    {
        *("connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)
"""Fields about one connection (RFC 9110 7.6.1), which HTTP/2 forbids."""
OF_FILE: Final = frozenset(
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
    if name.lower() in OF_CONNECTION or name.lower().startswith("sec-websocket-"):
        raise ValueError(f"{name} is about the connection, which the server manages (leave it out)")
    if name.lower() in OF_FILE:
        raise ValueError(f"the server sets {name} for each file (leave it out)")
    return name


def check_value(value: str) -> str:
    """Check the value of a response header; raises ValueError with a hint."""
    if not _VALUE.fullmatch(value):
        wrong = next(character for character in value if not _VALUE.fullmatch(character))
        kind = "a control character" if wrong < " " or wrong == "\x7f" else "a character beyond ASCII"
        raise ValueError(f"holds {kind} ({wrong!a}), which a header cannot have (leave it out)")
    if value != value.strip(" \t"):
        raise ValueError(f"{value!r} begins or ends with a space, which a header cannot (write {value.strip()!r})")
    return value


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Check that no header is there twice: their names differ by more than case; raises ValueError."""
    seen: dict[str, str] = {}
    for name in headers:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            raise ValueError(f"{first} and {name} are the same header (keep one of them)")
    return headers


Headers = Annotated[
    dict[Annotated[str, AfterValidator(check_name)], Annotated[str, AfterValidator(check_value)]], AfterValidator(check_headers)
]
