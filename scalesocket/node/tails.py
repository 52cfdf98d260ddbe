"""Tails of rooms on several nodes: the parts of a merged tail, and what this node sends of its rooms to the others."""

import msgspec

from scalesocket.cluster.peer_stream import PeerStream
from scalesocket.cluster.ready import PeerError
from scalesocket.operations.lookup import OperationError
from scalesocket.workers.merged_tail import PartLostError, TailPart
from scalesocket.workers.own_rooms import OwnRooms
from scalesocket.workers.site_messages import Ran, ReadTail, Release


class OwnTail(TailPart):
    """A tail of rooms of this node."""

    def __init__(self, own: OwnRooms, held: int, rooms: int, node: str) -> None:
        """Read the tail that `own` holds under this number."""
        super().__init__(rooms, node)
        self._own = own
        self._held = held

    async def read_more(self) -> bytes | None:
        """Wait for events."""
        try:
            return (await self._own.read_tail(ReadTail(self._held))).lines
        except OperationError as error:  # released, because there are too many
            raise PartLostError(str(error)) from error

    def end(self) -> None:
        """Release it."""
        self._own.release(Release(self._held))


class NodeTail(TailPart):
    """A tail of rooms of another node."""

    def __init__(self, stream: PeerStream, rooms: int, node: str) -> None:
        """Read what `node` sends."""
        super().__init__(rooms, node)
        self._stream = stream

    async def read_more(self) -> bytes | None:
        """Wait for events."""
        try:
            return await self._stream.read()
        except PeerError as error:
            raise PartLostError(str(error)) from error

    def end(self) -> None:
        """Close the stream, by which the other node ends the tail."""
        self._stream.close()


class SentTail:
    """A tail of rooms of this node for another one (`BlockSource`): first what became of the request, then the events."""

    def __init__(self, own: OwnRooms, ran: Ran) -> None:
        """Send the tail that `own` holds, if it has such rooms."""
        self.first = msgspec.msgpack.encode(ran)
        self._own = own
        self._held = ran.held

    async def read(self) -> bytes | None:
        """Wait for events; None at the end."""
        return None if self._held is None else (await self._own.read_tail(ReadTail(self._held))).lines

    def close(self) -> None:
        """Release it."""
        if self._held is not None:
            self._own.release(Release(self._held))
