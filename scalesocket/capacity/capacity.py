"""What a server counts against its limits, and what must be unique in it: the parts that one process has for itself, and that
several workers share."""

from collections.abc import Iterator
from typing import Protocol

from scalesocket.auth.failures import Failed
from scalesocket.auth.turns import Deciding
from scalesocket.backends.ports import PortTable
from scalesocket.capacity.places import Places
from scalesocket.config.model import ConnectRate, RoomRate
from scalesocket.token_buckets import Peer


class AddressLimiter(Protocol):
    """Limits what one address may do: `connect_rate` and `max_connections_per_ip`. See `block_of` for what an address is."""

    def is_full(self, peer: Peer, limit: int) -> bool:
        """Return whether the peer's address has `limit` open websockets."""

    def take(self, peer: Peer, limit: int | None) -> bool:
        """Count an open websocket. Return False, without counting it, if its address has `limit` already."""

    def release(self, peer: Peer) -> None:
        """Uncount a closed websocket."""

    def take_token(self, peer: Peer, rate: ConnectRate, now: float) -> float:
        """Take a token for an upgrade. Return 0.0, or the seconds until the next token if there is none."""

    def sweep(self, limit: int | None, rate: ConnectRate | None, now: float) -> None:
        """Tidy up, once a second. `limit` and `rate`: those in force."""


class OpeningLimiter(Protocol):
    """Limits how fast the rooms of one app are opened: `room_rate`."""

    def take(self, peer: Peer, rate: RoomRate, now: float) -> bool:
        """Take the tokens for a room that `peer` would open. Return False if one is missing; then none is taken."""

    def sweep(self, rate: RoomRate | None, now: float) -> None:
        """Tidy up, once a second. `rate`: the one in force."""


class AppCapacity(Protocol):
    """What is counted of one app. Its pool closes it when the app was removed and its last room has ended."""

    @property
    def connections(self) -> Places:
        """Clients in rooms: `max_connections` of the app."""

    @property
    def rooms(self) -> Places:
        """Names of rooms that are in use: `max_rooms`."""

    @property
    def openings(self) -> OpeningLimiter:
        """`room_rate`."""

    def close(self) -> None:
        """Stop counting."""


class Capacity(Protocol):
    """All of it."""

    @property
    def workers(self) -> int:
        """The processes of the server. What each of them counts for itself is limited to its share."""

    @property
    def connections(self) -> Places:
        """Clients in rooms: `max_connections` of the server."""

    @property
    def addresses(self) -> AddressLimiter:
        """`connect_rate` and `max_connections_per_ip`."""

    @property
    def client_ids(self) -> Iterator[int]:
        """The ids of clients, each unique as long as the server runs."""

    @property
    def ports(self) -> PortTable:
        """The ports of children."""

    def open_app(self, name: str) -> AppCapacity:
        """Count what an app has; the caller closes the result."""

    def failed(self, app: str) -> Failed:
        """Return the failed attempts to enter an app: `auth.failures`."""

    def deciding(self, app: str) -> Deciding:
        """Return the attempts to enter an app that are being decided."""
