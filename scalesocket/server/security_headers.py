"""Response headers that tell browsers to be careful: on every HTTP response of the server, whichever lane sends it."""

from collections.abc import Iterable, Mapping
from typing import Final

NOSNIFF: Final = {"X-Content-Type-Options": "nosniff"}
OWN: Final[Mapping[str, str]] = {
    **NOSNIFF,
    "Referrer-Policy": "same-origin",  # not "no-referrer", under which browsers send `Origin: null` with a POST
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Of the server's own responses: the API, errors, redirects. The landing pages have a policy of their own, which is as strict."""
FILE: Final[Mapping[str, str]] = {**NOSNIFF, "Referrer-Policy": "strict-origin-when-cross-origin"}
"""Of an app's static files, unless `static_headers` has others. A policy for their content is the app's decision."""

OWN_LINES: Final = "".join(f"{name}: {value}\r\n" for name, value in OWN.items())
"""`OWN` as lines of a head of HTTP/1.1."""
OWN_FIELDS: Final = [(name.lower().encode(), value.encode()) for name, value in OWN.items()]
"""`OWN` as fields of ASGI and HTTP/2."""
_LEAST: Final = OWN_FIELDS[:2]


def add_missing(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the fields of a response, with those two that every response has: Hypercorn's own errors come without them."""
    fields = list(fields)
    present = {name.lower() for name, _ in fields}
    return [*fields, *(field for field in _LEAST if field[0] not in present)]
