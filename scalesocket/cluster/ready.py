"""Connections to other nodes that are kept ready, with the greeting received, so that a hand-over takes one round trip."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from scalesocket.cluster.channels import Channel
from scalesocket.io.deadlines import Deadlines

MAX_READY: Final = 8
"""Connections to one node that are kept ready."""
READY_FOR: Final = 8.0
"""Seconds for which one is kept; the other end ends it after 15."""


class PeerError(Exception):
    """A node could not be reached, or did not answer as it should."""


class ReadyChannels:
    """A few connections to each node that was used lately."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Callable[[str], Awaitable[Channel]], most: int) -> None:
        """`connect`: opens a connection to an address; raises PeerError. `most`: connections to one node."""
        self.channels: dict[str, deque[Kept]] = {}
        """Connections by address, the one that was opened last at the end."""
        self.wanted: Counter[str] = Counter()
        """How many are kept ready, by address."""
        self._opening: Counter[str] = Counter()
        self._loop = loop
        self._connect = connect
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadlines: Deadlines[Kept] = Deadlines(loop, lambda: READY_FOR)

    def take(self, address: str) -> Channel | None:
        """Return a connection to this address; None if there is none."""
        channels = self.channels.get(address, ())
        while channels:
            kept = channels.pop()
            self._deadlines.stop(kept)
            if kept.channel.is_usable():
                return kept.channel
            kept.channel.close()
        return None

    def keep(self, address: str, *, has_missed: bool) -> None:
        """Open as many connections as are wanted; one more than before if there was none ready."""
        wanted = self.wanted[address]
        if has_missed and wanted < self._most:
            wanted = self.wanted[address] = wanted + 1
        for _ in range(wanted - len(self.channels.get(address, ())) - self._opening[address]):
            self._opening[address] += 1
            task = self._loop.create_task(self._open(address), name="connection to a node")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Close all. Calls may repeat."""
        for task in self._tasks:
            task.cancel()
        self.wanted.clear()
        self._deadlines.close()
        for channels in self.channels.values():
            while channels:
                channels.pop().channel.close()

    def expire(self, kept: "Kept") -> None:
        """Close a connection that was not used, and keep one less."""
        address = kept.address
        kept.channel.close()
        channels = self.channels[address]
        channels.remove(kept)
        self.wanted[address] -= 1
        if self.wanted[address] <= 0:
            del self.wanted[address]
        if not channels:
            del self.channels[address]

    async def _open(self, address: str) -> None:
        try:
            channel = await self._connect(address)
        except PeerError:
            del self.wanted[address]  # the next hand-over logs it
            return
        finally:
            self._opening[address] -= 1
            if not self._opening[address]:
                del self._opening[address]
        kept = Kept(self, address, channel)
        self.channels.setdefault(address, deque()).append(kept)
        self._deadlines.start(kept)


class Kept(NamedTuple):
    """One connection that is kept ready."""

    pool: ReadyChannels
    address: str
    channel: Channel

    def time_out(self) -> None:
        """Close it: it was not used for long."""
        self.pool.expire(self)
