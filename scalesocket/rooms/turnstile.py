"""Spreads work that many tasks have at once over turns of the event loop."""

import asyncio
from collections import deque


class Turnstile:
    """Lets at most `size` tasks through in each turn of the loop, the first to come first."""

    __slots__ = ("_is_turning", "_left", "_size", "_waiting")

    def __init__(self, size: int) -> None:
        """Let `size` through in a turn."""
        self._size = size
        self._left = size
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_turning = False

    async def wait(self) -> None:
        """Go through at once if there is room in this turn, else in a later one."""
        loop = asyncio.get_running_loop()
        if not self._left:  # then the next turn is arranged for
            self._waiting.append(place := loop.create_future())
            await place
            return
        self._left -= 1
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._size
        while self._left and self._waiting:
            place = self._waiting.popleft()
            if not place.done():  # else who waited was cancelled
                place.set_result(None)
                self._left -= 1
        self._is_turning = self._left < self._size
        if self._is_turning:
            loop.call_soon(self._turn, loop)
