"""What the directory knows of all nodes: their loads, their rooms with summaries, and tickets that any of them may redeem."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from scalesocket.cluster.engine import Engine
from scalesocket.cluster.link import Answer, EngineUnavailableError, Word
from scalesocket.cluster.records import ClusterRoom, Load, NodeAddress, NodeStatus, RoomName, Summary
from scalesocket.cluster.requests import SECOND, TIMEOUT, Requests
from scalesocket.cluster.scripts import FORGET, NODES, PUBLISH, ROOMS

PAGE: Final = 500
"""Rooms that one script lists, in some milliseconds of the engine."""
MAX_METADATA: Final = 16 * 1024
"""Bytes of the metadata of one room. Longer metadata is not published."""
PUBLISHED_ROOMS: Final = 100
PUBLISHED_BYTES: Final = 256 * 1024
"""What one request publishes at most."""


class Listing:
    """Reads and writes what the lobby and the operator see. All of it raises EngineError."""

    def __init__(self, requests: Requests, engine: Engine) -> None:
        self._requests = requests
        self._engine = engine

    async def nodes(self) -> list[NodeStatus]:
        """List the nodes by name, also those that were lost in the last ten minutes."""
        _, rest = await self._requests.run(self._engine, NODES)
        return sorted(map(_read_node, rest), key=lambda node: node.address.node)

    async def rooms(self, app: str) -> list[ClusterRoom]:
        """List the rooms of an app on all nodes, by name."""
        found = {
            room.name: room
            for node in await self.nodes()
            if node.is_alive
            async for room in self.rooms_of(node.address.inc, pattern=f"{app}:*")
        }
        return sorted(found.values(), key=lambda room: room.name)

    async def rooms_of(self, inc: str, *, pattern: str = "*", epoch: str | None = None) -> AsyncIterator[ClusterRoom]:
        """List the rooms of a session, in no order; a room may come twice. `epoch`: the only one in which the list is whole."""
        cursor = b"0"
        while True:
            _, rest = await self._requests.run(self._engine, ROOMS, inc, cursor, pattern, PAGE)
            if epoch not in (None, rest[0].decode()):
                raise EngineUnavailableError("the engine was restarted")
            cursor = rest[1]
            for found in rest[2:]:
                yield _read_room(found)
            if cursor == b"0":
                return

    async def publish(self, inc: str, summaries: Iterable[Summary]) -> None:
        """Publish what the lobby shows of rooms of the session `inc`."""
        for words in _batches(summaries):
            await self._requests.run(self._engine, PUBLISH, inc, *words)

    async def forget(self, node: str) -> float | None:
        """End the session of a node that is dead for certain, so that its rooms need not wait for the end of its lease.

        Returns the seconds that the lease had left; None for an unknown node. If the node is alive after all, its rooms may run
        twice until its next renewal.
        """
        word, rest = await self._requests.run(self._engine, FORGET, node)
        return rest[0] / SECOND if word == "forgotten" else None

    async def put_ticket(self, digest: bytes, content: bytes, lifetime: float) -> bool:
        """Store what a ticket grants, under its hash. False if there is one already."""
        words = ("SET", self._ticket(digest), content, "PX", round(lifetime * 1000), "NX")
        return await self._engine.call(*words, timeout=TIMEOUT) is not None

    async def take_ticket(self, digest: bytes) -> bytes | None:
        """Take a ticket: only one caller on all nodes gets it. None if there is none."""
        found: bytes | None = await self._engine.call("GETDEL", self._ticket(digest), timeout=TIMEOUT)
        return found

    def _ticket(self, digest: bytes) -> str:
        return f"{self._requests.prefix}ticket:{digest.hex()}"


def _read_node(found: list[Answer]) -> NodeStatus:
    node, inc, advertise, version, rooms, clients, is_draining, owned, left, seen = found
    return NodeStatus(
        address=NodeAddress(node.decode(), inc.decode(), advertise.decode()),
        version=version.decode(),
        load=Load(rooms=rooms, clients=clients, is_draining=bool(is_draining)),
        owned=owned,
        seconds_left=left / SECOND,
        last_seen=seen / SECOND,
    )


def _read_room(found: list[Answer]) -> ClusterRoom:
    member, node, fence, state, created, players, metadata = found
    return ClusterRoom(
        name=RoomName.parse(member.decode()),
        node=node.decode(),
        fence=fence,
        state=state.decode(),
        created=int(created) / SECOND,
        players=players,
        metadata=metadata or None,
    )


def _batches(summaries: Iterable[Summary]) -> Iterator[list[Word]]:
    words: list[Word] = []
    size = 0
    for summary in summaries:
        metadata = summary.metadata or b""
        if len(metadata) > MAX_METADATA:
            metadata = b""
        words += (summary.name.member, summary.fence, summary.state, summary.players, metadata)
        size += len(metadata)
        if len(words) >= 5 * PUBLISHED_ROOMS or size >= PUBLISHED_BYTES:
            yield words
            words, size = [], 0
    if words:
        yield words
