"""The room of a client that may not write: its messages are dropped, everything else reaches the room."""

from collections.abc import Container, Sequence

from scalesocket.config.model import App
from scalesocket.edge.ports import ClientRoom, Member
from scalesocket.errors import Close
from scalesocket.status import Counts
from scalesocket.wire.batch import ClientId
from scalesocket.wire.frames import Event


class ReadOnlyRoom:
    """Stands between one client and its room (`ports.ClientRoom`), so that no message of others costs a test of roles."""

    __slots__ = ("_counts", "_room")

    def __init__(self, room: ClientRoom, counts: Counts) -> None:
        """Drop messages to `room`, and count them in `counts`, which are those of the room."""
        self._room = room
        self._counts = counts

    @property
    def app(self) -> App:
        """The settings of the room in force."""
        return self._room.app

    @property
    def clients(self) -> Container[ClientId]:
        """The ids of the clients in the room."""
        return self._room.clients

    def from_client(self, client: Member, messages: Sequence[Event]) -> None:
        """Drop messages."""
        counts = self._counts
        counts.messages_in += len(messages)
        counts.messages_dropped += len(messages)
        counts.bytes_in += sum(len(payload) for _, payload in messages)

    def leave(self, client: Member) -> None:
        """Remove a client. Calls may repeat."""
        self._room.leave(client)

    def expel(self, client: Member, close: Close) -> None:
        """Close a client and remove it."""
        self._room.expel(client, close)

    def congested(self, client: Member) -> None:
        """Note that a client's unsent bytes passed the high-water mark."""
        self._room.congested(client)

    def drained(self, client: Member) -> None:
        """Note that a client's unsent bytes fell below the low-water mark."""
        self._room.drained(client)
