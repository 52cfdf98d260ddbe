"""Children that were asked for and are not there yet: who waits for a turn, and what the spawner has been asked to start."""

import asyncio
import math
from collections import deque
from typing import Final

import anyio

from scalesocket.backends.child import Child, SpawnRequest
from scalesocket.errors import SpawnerError

MAX_IN_FLIGHT: Final = 16
"""Starts the spawner is asked for at a time. Descriptors on their way count against a limit of the whole user."""
MAX_WAITING: Final = 10_000
"""Starts that may wait for their turn; one more fails."""
SPAWN_TIMEOUT: Final = 10.0
"""Seconds the spawner has to answer."""


class Start:
    """A child that was asked for."""

    __slots__ = ("answer", "asked_at", "due", "is_in_flight", "is_second_try", "is_wanted", "number", "packet")

    def __init__(self, number: int, packet: bytes) -> None:
        self.number = number
        self.packet = packet
        self.answer: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        """Awaited by `wait` alone, which is cancelled with it."""
        self.asked_at = 0.0
        """When the spawner was asked for it last, in the loop's time."""
        self.due = math.inf
        """When the spawner is to have answered, in the loop's time; infinite unless that is still to be judged."""
        self.is_in_flight = False
        """The spawner was asked for it and has not answered."""
        self.is_second_try = False
        self.is_wanted = True
        """Until who asked for it was cancelled."""

    async def wait(self) -> Child:
        """Wait for the child. If cancelled, one that is started nonetheless is killed, and reaped before this returns."""
        try:
            # Not shielded, as the answer can be replaced: a shield takes 5 us and another turn of the loop.
            return await self.answer
        except asyncio.CancelledError:
            await self._call_off()
            raise

    async def _call_off(self) -> None:
        """Wait until nothing is left of a start that nobody wants any more."""
        self.is_wanted = False
        if self.answer.cancelled():
            if not self.is_in_flight:  # the spawner does not know of it, and never will
                return
            self.answer = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(_discard)
        with anyio.CancelScope(shield=True):
            await asyncio.wait((self.answer,))
            if self.answer.exception() is None:
                await self.answer.result().wait_released()

    def succeed(self, child: Child) -> None:
        """It is there. Killed, if it comes too late."""
        if self.answer.cancelled() and self.is_wanted:  # cancelled just now: it is for `_call_off`, which comes next
            self.answer = asyncio.get_running_loop().create_future()
        if self.answer.done():
            child.discard()
        else:
            self.answer.set_result(child)

    def fail(self, error: str) -> None:
        """Nothing was started, or nothing that is left."""
        if not self.answer.done():
            self.answer.set_exception(SpawnerError(error))


class Starts:
    """All starts of a spawner, or of several if one after the other dies."""

    def __init__(self) -> None:
        self.waiting: deque[Start] = deque()
        self.in_flight: dict[int, Start] = {}
        """What the spawner was asked for, by number, the oldest first."""
        self._number = 0

    def ask(self, request: SpawnRequest) -> Start:
        """Let a start wait for its turn. Raises SpawnerError when too many do."""
        if len(self.waiting) >= MAX_WAITING:
            raise SpawnerError("too many starts are waiting")
        self._number += 1
        start = Start(self._number, request.packet(self._number))
        self.waiting.append(start)
        return start

    def next(self) -> Start | None:
        """The one whose turn it is, if the spawner may be asked for another."""
        while self.waiting and self.waiting[0].answer.done():
            self.waiting.popleft()
        return self.waiting[0] if self.waiting and len(self.in_flight) < MAX_IN_FLIGHT else None

    def sent(self, now: float) -> None:
        """The spawner was asked for `next()`."""
        start = self.waiting.popleft()
        start.asked_at, start.due, start.is_in_flight = now, now + SPAWN_TIMEOUT, True
        self.in_flight[start.number] = start

    def answered(self, number: int) -> Start | None:
        """Take out what the spawner speaks of; None if it was given up."""
        start = self.in_flight.pop(number, None)
        if start is not None:
            start.due, start.is_in_flight = math.inf, False
        return start

    @property
    def next_due(self) -> float | None:
        """When the first answer is to be there; None if none is awaited."""
        due = min((start.due for start in self.in_flight.values()), default=math.inf)
        return due if due < math.inf else None

    def fail_late(self, now: float) -> bool:
        """Fail what is not answered in time, whether it is wanted or not; False if nothing is late.

        It keeps its place among those in flight, as long as nobody knows what became of it.
        """
        late = [start for start in self.in_flight.values() if start.due <= now]
        for start in late:
            start.due = math.inf
            start.fail(f"it did not start within {SPAWN_TIMEOUT:g} s")
        return bool(late)

    def begin_again(self) -> None:
        """The spawner died: what it has not answered is asked for once more, before any other."""
        again: list[Start] = []
        for start in tuple(self.in_flight.values()):
            self.answered(start.number)
            if start.is_second_try:
                start.fail("the spawner died twice while it was being started")
            elif not start.is_wanted:
                start.fail("nobody wants it")
            start.is_second_try = True
            if not start.answer.done():
                again.append(start)
        self.waiting.extendleft(reversed(again))

    def fail_all(self, error: str) -> None:
        """Fail whatever was asked for and is not there."""
        for start in (*self.in_flight.values(), *self.waiting):
            self.answered(start.number)
            start.fail(error)
        self.waiting.clear()


def _discard(answer: asyncio.Future[Child]) -> None:
    """Nobody wants the child: whoever asked for it was cancelled."""
    if answer.exception() is None:
        answer.result().discard()
