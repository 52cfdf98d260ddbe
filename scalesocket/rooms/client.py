"""A client: one websocket as its room sees it, whichever lane it came by."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NewType

from scalesocket.errors import Close
from scalesocket.wire.batch import Batch

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room

ClientId = NewType("ClientId", int)
"""u32 from 1, one counter per server; never used twice while the server runs."""


class Client(ABC):
    """One websocket in a room. The lanes implement it; everything here is synchronous and none of it blocks.

    A lane tells the room what happens: `room.from_client(client, messages)`, `room.leave(client)` exactly once when
    the websocket is gone or closing, `room.congested(client)` / `room.drained(client)` when its unsent bytes pass the
    high-water mark and fall below the low one.
    """

    __slots__ = ("allowance", "heard_at", "id", "is_congested", "pinged_at", "query", "remote", "room", "said_at")

    id: ClientId
    room: "Room"
    remote: str
    """`ip:port` of the peer."""
    query: str
    """The raw query string of the upgrade request."""
    is_congested: bool
    """True between `room.congested` and `room.drained`; then `unsent` decides whether the client is too slow."""
    allowance: int
    """Bytes unsent that are forgiven on top of `send_buffer`: a long history was just replayed to this client."""
    heard_at: float
    """When any byte last came from the peer, in the loop's time."""
    said_at: float
    """When the last message came (control frames do not count), for `client_idle_timeout`."""
    pinged_at: float
    """When the unanswered ping was sent, or 0.0 when no ping is unanswered."""

    @abstractmethod
    def send(self, batch: Batch) -> None:
        """Queue a batch; order is kept. Silently ignored once the client is closing."""

    @abstractmethod
    def close(self, close: Close) -> None:
        """Start the closing handshake after what was sent before; `room.leave` has been or will be called by the lane."""

    @abstractmethod
    def abort(self) -> None:
        """Cut the connection without a closing handshake: the peer is gone."""

    @abstractmethod
    def ping(self) -> None:
        """Send a ping."""

    @abstractmethod
    def pause(self) -> None:
        """Stop reading from the peer, so that TCP pushes back. Calls may repeat."""

    @abstractmethod
    def resume(self) -> None:
        """Read from the peer again. Calls may repeat."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes queued for the peer that the kernel has not taken yet."""
