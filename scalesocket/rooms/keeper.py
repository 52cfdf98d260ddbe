"""The interface between a room and the pool that keeps it."""

from typing import TYPE_CHECKING, Protocol

from scalesocket.backends.backend import Exit
from scalesocket.edge.client import Client

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room


class Keeper(Protocol):
    """What a room and its life tell the pool."""

    def client_joined(self, client: Client) -> None:
        """Count a client that is in the room from now on."""

    def client_left(self, client: Client) -> None:
        """Count a client that is no longer in a room."""

    def room_opening(self, room: "Room") -> None:
        """Count the start of a backend."""

    def room_failed(self, room: "Room") -> None:
        """Count a start that failed."""

    def room_crashed(self, room: "Room") -> None:
        """Count a backend that ended by failure, and not because the server stopped it."""

    def room_exited(self, room: "Room", end: Exit) -> None:
        """Count how a backend ended."""

    def room_stopping(self, room: "Room") -> None:
        """Take the room out of the map: from now on nobody joins it."""

    def room_ended(self, room: "Room") -> None:
        """Give its place free."""
