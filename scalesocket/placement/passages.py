"""Connections that pass through this process, to the one that has their room: pumped bytes, and relayed messages."""

import asyncio
import math
import select
from typing import Final, Protocol

from scalesocket.cleanup import logged_faults

ENDS_PER_SECOND: Final = 1000
"""Passages ended in a second, unless the timeout demands more."""
SLICE: Final = 0.02
"""Seconds between two groups."""


class Passage(Protocol):
    """One connection."""

    def end(self) -> None:
        """Have the client closed by the owner of its room: this process stops. Calls may repeat."""

    def cut(self) -> None:
        """Abort it. Calls may repeat."""


class Passages:
    """The open passages."""

    def __init__(self) -> None:
        self._open: dict[Passage, None] = {}
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, passage: Passage) -> None:
        """Note a passage that opens."""
        self._open[passage] = None
        self._none_left.clear()

    def remove(self, passage: Passage) -> None:
        """Forget a passage that has ended."""
        self._open.pop(passage, None)
        if not self._open:
            self._none_left.set()

    async def wait_none(self) -> None:
        """Wait until no passage is open."""
        while self._open:
            await self._none_left.wait()

    async def drain(self, timeout: float) -> None:
        """End all passages, over at most `timeout` seconds. Few are ended at once."""
        loop = asyncio.get_running_loop()
        left, deadline = tuple(self._open), loop.time() + timeout
        while left:
            slices = max(1, math.floor((deadline - loop.time()) / SLICE))
            due = max(math.ceil(len(left) / slices), round(ENDS_PER_SECOND * SLICE))
            for passage in left[:due]:
                with logged_faults("ending a passage"):
                    passage.end()
            left = left[due:]
            if left:
                await asyncio.sleep(SLICE)

    def cut_all(self) -> None:
        """Abort all passages."""
        for passage in tuple(self._open):
            with logged_faults("cutting a passage"):
                passage.cut()


def has_ended(fd: int) -> bool:
    """Whether the other end of a socket pair has ended its output, even if some of that is unread; also if `fd` is closed."""
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))
