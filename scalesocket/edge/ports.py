"""The two interfaces between a room and its clients."""

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Protocol

from scalesocket.config.model import App
from scalesocket.errors import Close
from scalesocket.wire.batch import ClientId
from scalesocket.wire.frames import Event

if TYPE_CHECKING:
    from scalesocket.edge.client import Client


class ClientRoom(Protocol):
    """What a client needs of its room."""

    app: App

    @property
    def clients(self) -> Container[ClientId]:
        """The ids of the clients in the room."""

    def from_client(self, client: "Client", messages: Sequence[Event]) -> None:
        """Pass messages of a client on to the backend, in order."""

    def leave(self, client: "Client") -> None:
        """Remove a client. Calls may repeat."""

    def expel(self, client: "Client", close: Close) -> None:
        """Close a client and remove it."""

    def congested(self, client: "Client") -> None:
        """Note that a client's unsent bytes passed the high-water mark."""

    def drained(self, client: "Client") -> None:
        """Note that a client's unsent bytes fell below the low-water mark."""
