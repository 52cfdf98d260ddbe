"""The lists of rooms and of clients, as operations return them."""

from typing import Final

import msgspec

ALL_OTHERS: Final = "*"
"""Stands for all other nodes, when the engine of the cluster does not answer."""


class RoomEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One room in a list."""

    app: str
    room: str
    node: str | msgspec.UnsetType = msgspec.UNSET
    """The node that owns it; only in a cluster."""
    state: str
    """`starting`, `open`, `lingering` or `stopping`."""
    clients: int
    pid: int | None
    """The process of its program; None without one."""
    messages_in: int
    """Messages from clients since the room opened."""
    messages_out: int
    """Messages to clients, counted once for each client."""
    messages_dropped: int


class ClientEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One client in a list."""

    app: str
    room: str
    node: str | msgspec.UnsetType = msgspec.UNSET
    """The node that owns the room; only in a cluster."""
    id: int
    user: str | None
    """The authenticated user; None for a guest and without `auth`."""
    roles: tuple[str, ...]
    """What the client may do; empty without `auth`."""
    address: str
    """`ip:port`; empty on a unix socket."""
    idle: float
    """Seconds since its last message, or since it connected."""
    unsent: int
    """Bytes that wait to be sent to it."""


class RoomList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rooms, app by app."""

    rooms: tuple[RoomEntry, ...]
    unreachable: tuple[str, ...] = ()
    """Nodes of the cluster that could not be asked; `*` for all others, if the engine does not answer."""


class ClientList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Clients, room by room."""

    clients: tuple[ClientEntry, ...]
    unreachable: tuple[str, ...] = ()
    """As in RoomList."""
