"""`[server] admin`: the address of the admin surface, and the token that its callers present."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from scalesocket.config.addresses import Bind
from scalesocket.config.keys import Table, listener_key, live_key

SHORTEST_TOKEN: Final = 16
"""Characters below which a token is reported as weak."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # what a request head carries unchanged


def _check_token(token: str | None) -> str | None:
    if token is not None and not _TOKEN.fullmatch(token):
        fault = "has characters other than ASCII letters, digits and punctuation" if token else "is empty"
        raise ValueError(f"{fault} (write a random one: openssl rand -hex 32)")
    return token


class Admin(Table):
    """The admin surface."""

    bind: Annotated[
        Bind,
        listener_key("Address of the admin surface: `host:port`, `[v6]:port`, `fd://N` or `unix:path`. It has no TLS"),
    ]
    token: Annotated[
        str | None,
        AfterValidator(_check_token),
        Field(repr=False),
        live_key(
            "What a caller sends as `Authorization: Bearer TOKEN`. Required, except with `unix:path`: only the server's user can "
            "open that file",
            secret=True,
        ),
    ] = None

    @property
    def is_unix(self) -> bool:
        """Whether the address is a unix socket that the server creates."""
        return self.bind.startswith("unix:")

    @model_validator(mode="after")
    def _has_token(self) -> "Admin":
        if self.token is None and not self.is_unix:
            raise ValueError(f'{self.bind} is open without a token (set token or token_file, or bind to "unix:PATH")')
        return self
