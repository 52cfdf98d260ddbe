"""Checks the deadlines of all rooms and clients, a slice at a time.

Deadlines that move with every message (pings, pongs, idle clients, backends that do not read) are not timers. A sweep checks each
app several times in the length of its shortest deadline. It runs in slices, between which the event loop runs other callbacks.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from scalesocket.errors import INTERNAL_ERROR
from scalesocket.rooms.containment import contain_exceptions
from scalesocket.rooms.pool import RoomPool

SLICE: Final = 0.0005
"""Seconds of one slice, unless a single check takes longer."""
PAUSE: Final = 0.001
"""Seconds between two slices of a sweep."""
LONGEST_SLEEP: Final = 1.0
"""Seconds after which an edit of the deadlines or a new app is noticed."""
FROZEN: Final = 1.0
"""Seconds by which a sweep may be late; after more, what peers have sent meanwhile is read first."""


class Sweep:
    """Sweeps the pools of a gateway, each at its own interval."""

    def __init__(self, find_pools: Callable[[], Iterable[RoomPool]]) -> None:
        """Sweep the pools that `find_pools` returns; it is called before each sweep."""
        self._find_pools = find_pools
        self._due: dict[RoomPool, float] = {}

    async def run(self) -> None:
        """Sweep until cancelled."""
        loop = asyncio.get_running_loop()
        was_frozen = False
        while True:
            wake_at = self._plan(loop.time())
            await asyncio.sleep(wake_at - loop.time())
            # After the whole process stood still, pongs of that time are unread: let the loop read them, then check, however late
            # it is.
            was_frozen = loop.time() > wake_at + FROZEN and not was_frozen
            if was_frozen:
                continue
            for pool in [pool for pool, due in self._due.items() if due <= loop.time()]:
                await self._sweep(pool, loop)
                self._due[pool] = loop.time() + pool.check_interval

    def _plan(self, now: float) -> float:
        """Note when each pool is due, and return when to wake up."""
        self._due = {
            pool: min(self._due.get(pool, now + pool.check_interval), now + pool.check_interval) for pool in self._find_pools()
        }
        return min([now + LONGEST_SLEEP, *self._due.values()])

    async def _sweep(self, pool: RoomPool, loop: asyncio.AbstractEventLoop) -> None:
        slice_end = loop.time() + SLICE
        for _ in check_rooms(pool, loop.time):
            if loop.time() >= slice_end:
                wake_at = loop.time() + PAUSE
                await asyncio.sleep(PAUSE)
                if loop.time() > wake_at + FROZEN:
                    return  # the next sweep continues, after what peers sent meanwhile was read
                slice_end = loop.time() + SLICE


def check_rooms(pool: RoomPool, clock: Callable[[], float]) -> Iterator[None]:
    """Check all rooms of a pool, with a break after every few clients. A room whose check fails because of a bug ends."""
    for room in pool.all_rooms:
        is_checked = False
        with contain_exceptions(room):
            yield from room.check(clock)
            is_checked = True
        if not is_checked:
            with contain_exceptions(room):
                room.stop(INTERNAL_ERROR)
        yield
