"""Who a client is, and what it may do."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

NO_INFO: Final = "null"


class Role(StrEnum):
    """What a client may do in a room."""

    READ = "read"
    """It receives messages. Without WRITE, its own messages are dropped."""
    WRITE = "write"
    CREATE = "create"
    """It may open a room, where `auth.create = "role"`."""


WRITER: Final = frozenset({Role.WRITE})
"""The roles of a client whose credential names none."""


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # made in a fifth of the time of a frozen dataclass
    """A client that was let in."""

    user: str | None = None
    """The name of the user; None for a guest."""
    method: str
    """How the client proved it: `jwt`, `token`, `basic`, `header`, `hook`, `ticket` or `anonymous`. CGI calls it AUTH_TYPE."""
    rooms: tuple[str, ...] | None = None
    """Names and patterns of the rooms that the client may enter; None: all rooms of the app."""
    roles: frozenset[Role] = WRITER
    info: str = NO_INFO
    """JSON for the program, on one line."""
    expires_at: float | None = None
    """When the credential expires, in Unix time; None: never."""

    @property
    def may_write(self) -> bool:
        """Whether the client's messages reach the room."""
        return Role.WRITE in self.roles

    @property
    def may_create(self) -> bool:
        """Whether the client may open a room where `auth.create = "role"`."""
        return Role.CREATE in self.roles

    def may_enter(self, room: str) -> bool:
        """Whether one of the patterns matches the name of a room."""
        return self.rooms is None or any(matches(pattern, room) for pattern in self.rooms)

    @property
    def role_names(self) -> tuple[str, ...]:
        """The roles in a fixed order."""
        return tuple(role.value for role in Role if role in self.roles)


def roles_of(names: Iterable[str]) -> frozenset[Role]:
    """Return the roles that a credential names. Unknown names give nothing, so that a misspelt `read` does not become `write`.

    `create` alone includes `write`: who may open a room may also send to it.
    """
    given = frozenset(names)
    roles = frozenset(role for role in Role if role in given)
    return roles | WRITER if roles == {Role.CREATE} else roles


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches a whole name; `*` stands for any characters. Takes time linear in the name's length."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    *middle, last = rest
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
