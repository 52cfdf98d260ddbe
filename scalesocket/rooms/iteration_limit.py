"""Spreads work that many tasks begin at the same time over several event-loop iterations."""

import asyncio
from collections import deque


class IterationLimit:
    """Lets at most `size` tasks pass in each event-loop iteration, in the order they arrive."""

    __slots__ = ("_is_scheduled", "_left", "_size", "_waiting")

    def __init__(self, size: int) -> None:
        """Let `size` tasks pass in one iteration."""
        self._size = size
        self._left = size
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False

    async def wait(self) -> None:
        """Return at once if this iteration has a place left, else in a later one."""
        loop = asyncio.get_running_loop()
        if not self._left:  # then the next iteration is scheduled
            self._waiting.append(place := loop.create_future())
            await place
            return
        self._left -= 1
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._begin_iteration, loop)

    def _begin_iteration(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._size
        while self._left and self._waiting:
            place = self._waiting.popleft()
            if not place.done():  # a cancelled task takes no place
                place.set_result(None)
                self._left -= 1
        self._is_scheduled = self._left < self._size
        if self._is_scheduled:
            loop.call_soon(self._begin_iteration, loop)
