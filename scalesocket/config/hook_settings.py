"""The `[apps.NAME.auth.hook]` table: the server that is asked who a client is."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from scalesocket.config.headers import CONNECTION_FIELDS
from scalesocket.config.keys import Table, live_key
from scalesocket.config.units import AnyDuration, PositiveDuration
from scalesocket.config.urls import HttpUrl
from scalesocket.config.values import Count, one_or_more, read_list

WEBSOCKET_FIELDS: Final = "sec-websocket-"
"""How the names of the fields of a websocket handshake begin."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2


def is_of_connection(name: str) -> bool:
    """Whether a header, in lower case, is about one connection or its websocket handshake, and so is never passed on."""
    return name in CONNECTION_FIELDS or name.startswith(WEBSOCKET_FIELDS) or name in ("proxy-authorization", "content-length")


def _check_header(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f'{str(name)!r} is not a header name (write for example "Cookie")')
    if is_of_connection(name.lower()):
        raise ValueError(f"{name} is about the connection and is never passed on (delete it)")
    return name


HeaderNames = Annotated[
    tuple[Annotated[str, AfterValidator(_check_header)], ...], BeforeValidator(read_list), one_or_more("string or list")
]


class Hook(Table):
    """A server that decides who may come in."""

    url: Annotated[
        HttpUrl,
        Field(repr=False),
        live_key("Where to POST the JSON `{app, room, origin, address, headers, query}`", url=True),
    ]
    timeout: Annotated[PositiveDuration, live_key("For a complete response; after that the hook is unavailable")] = 1.0
    headers: Annotated[
        HeaderNames,
        live_key("Request headers that the hook gets. They count as credentials: the program does not get them"),
    ] = ("Cookie", "Authorization")
    cache: Annotated[AnyDuration, live_key("How long an answer also serves for the same question")] = 0.0
    recheck: Annotated[
        PositiveDuration | None,
        live_key(
            "Ask again about each client at this interval. Refused: closed with 4401. Unavailable: stays until the next time"
        ),
    ] = None
    max_in_flight: Annotated[
        Count, live_key("Questions that wait for an answer at the same time; further clients are closed with 1013 at once")
    ] = 64
