"""The streams of clients that other nodes have taken, cut when the owner of the room has lost its session.

Nothing on a connection shows that the machine at its other end has failed, or that the process there is stopped. Its client would
wait forever, although its room may have opened elsewhere.
"""

import asyncio
from collections import Counter
from typing import Final

import structlog

from scalesocket.cluster.directory import Directory
from scalesocket.cluster.link import EngineError
from scalesocket.cluster.records import Free, Owned, RoomName
from scalesocket.cluster.remote import Claim
from scalesocket.placement.stream import Stream

log = structlog.get_logger("cluster")

CHECKS: Final = 10
"""Checks in the time of one lease, while there are any streams."""
Key = tuple[RoomName, Claim]


class HandedStreams:
    """The streams that are open, by room and owner. `run` is the one task of it."""

    def __init__(self, directory: Directory, lease: float, *, keeps_rooms: bool) -> None:
        """`lease`: seconds. `keeps_rooms`: a room is its old owner's until another node opens it."""
        self._directory = directory
        self._interval = lease / CHECKS
        self._keeps_rooms = keeps_rooms
        self._streams: dict[Stream, Key] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, name: RoomName, claim: Claim, stream: Stream) -> None:
        """Watch a stream until it is closed."""
        self._streams[stream] = name, claim

    async def run(self) -> None:
        """Check the owners until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            self._streams = {stream: key for stream, key in self._streams.items() if stream.transport.is_open}
            if self._streams:
                try:
                    await self._check()
                except EngineError:
                    continue  # nobody gets the rooms of others now
                except Exception:
                    log.exception("checking the owners of rooms failed")

    async def _check(self) -> None:
        """Cut streams to owners whose session has ended."""
        nodes = await self._directory.listing.nodes()
        alive = {node.address.advertise for node in nodes if node.is_alive}
        silent = {key for key in self._streams.values() if key[1].address not in alive}
        lost = {key for key in silent if await self._is_lost(*key)}
        cut: Counter[str] = Counter()
        for stream, key in self._streams.items():
            if key in lost:
                cut[key[1].address] += 1
                stream.transport.cut()
        for address, clients in cut.items():
            log.warning("owner of rooms lost", address=address, clients=clients, effect="their connections are cut")

    async def _is_lost(self, name: RoomName, claim: Claim) -> bool:
        """Whether a room is not its owner's any more. While the engine recovers, that is not known."""
        found = await self._directory.find(*name)
        if isinstance(found, Owned):
            return found.fence != claim.fence
        return isinstance(found, Free) and not self._keeps_rooms
