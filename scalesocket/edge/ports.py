"""The interfaces between a room and its clients.

Both sides see the other through one of these. A room never holds a client object: it knows members by id, and sends to them
through its audience.
"""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from scalesocket.auth.identity import Identity
from scalesocket.config.model import App
from scalesocket.errors import Close
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Event


class Member(Protocol):
    """A client as its room knows it: an id, and what a join or leave message may contain."""

    @property
    def id(self) -> ClientId:
        """The id, unique while the server runs."""

    @property
    def remote(self) -> str:
        """`ip:port` of the peer; empty on a unix socket."""

    @property
    def query(self) -> str:
        """The raw query string of the upgrade request."""

    @property
    def identity(self) -> Identity | None:
        """Who the client is; None in an app without `auth`."""


class ClientRoom(Protocol):
    """What a client needs of its room."""

    @property
    def app(self) -> App:
        """The settings in force."""

    @property
    def clients(self) -> Container[ClientId]:
        """The ids of the clients in the room."""

    def from_client(self, client: Member, messages: Sequence[Event]) -> None:
        """Pass messages of a client to the backend, in order."""

    def leave(self, client: Member) -> None:
        """Remove a client. Calls may repeat."""

    def expel(self, client: Member, close: Close) -> None:
        """Close a client and remove it."""

    def congested(self, client: Member) -> None:
        """Note that a client's unsent bytes passed the high-water mark."""

    def drained(self, client: Member) -> None:
        """Note that a client's unsent bytes fell below the low-water mark."""


class OutputSource(Protocol):
    """What an audience needs of the output that it is sent."""

    @property
    def has_more(self) -> bool:
        """Whether the backend has written something that was not read yet."""

    def congestion_changed(self) -> None:
        """Note that a client joined, left, became congested or drained."""

    def waiting_changed(self) -> None:
        """Note that the audience began or ceased to wait for a slow client."""


class RoomAudience(Protocol):
    """What a room needs of its clients. No call raises because one client fails: that client is closed, the others go on."""

    @property
    def members(self) -> Mapping[ClientId, Member]:
        """The clients by id, in the order they joined."""

    @property
    def is_congested(self) -> bool:
        """Whether there are clients and all of them are above their high-water mark."""

    @property
    def is_waiting(self) -> bool:
        """Whether the backend must not be read, because a client left more than `send_buffer` unsent."""

    @property
    def delivered(self) -> int:
        """A number that changes while any client's peer takes bytes."""

    def connect(self, source: OutputSource) -> None:
        """Tell `source` from now on when clients fall behind and catch up."""

    def broadcast(self, batch: Batch, exclude: Container[ClientId] = ()) -> None:
        """Send a batch to all clients but those in `exclude`."""

    def send(self, ids: Iterable[ClientId], batch: Batch, exclude: Container[ClientId] = ()) -> None:
        """Send a batch to those of these clients that are here."""

    def replay(self, member: ClientId, batches: Collection[Batch]) -> None:
        """Send the history to a new client; until it is taken, `send_buffer` grows by its size. Raises what the client raises."""

    def replay_to_all(self, batches: Collection[Batch]) -> None:
        """Send the history to all clients."""

    def hold(self) -> None:
        """Stop reading from all clients, those included that join later. Calls may repeat."""

    def release(self) -> None:
        """Read from all clients again. Calls may repeat."""

    def congested(self, member: ClientId) -> None:
        """Note that a client's unsent bytes passed the high-water mark."""

    def drained(self, member: ClientId) -> None:
        """Note that a client's unsent bytes fell below the low-water mark."""

    def remove(self, member: ClientId) -> bool:
        """Forget a client; return False if it is not here."""

    def expel(self, member: ClientId, close: Close) -> None:
        """Close a client and have it leave its room."""

    def expel_all(self, close: Close) -> None:
        """Close all clients and have them leave the room."""

    def stop_waiting(self) -> None:
        """Stop waiting for slow clients: the backend is gone."""

    def apply(self, app: App) -> None:
        """Take on live changes of the app."""

    def check_keepalives(self, clock: Callable[[], float]) -> Iterator[None]:
        """Ping and close clients as their deadlines demand, with a break after every few clients."""

    def end(self) -> None:
        """Release everything: the room has ended."""
