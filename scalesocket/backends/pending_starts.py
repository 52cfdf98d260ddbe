"""Children that were requested and are not there yet: those that wait, and those the spawner was asked to start."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio

from scalesocket.backends.child import Child, SpawnRequest
from scalesocket.errors import SpawnerError

MAX_IN_FLIGHT: Final = 16
"""Starts requested of the spawner at a time. Descriptors in transit count against a limit of the whole user."""
MAX_WAITING: Final = 10_000
"""Starts that may wait; one more fails."""
SPAWN_TIMEOUT: Final = 10.0
"""Seconds in which the spawner must answer."""


class PendingStart:
    """A child that was requested."""

    __slots__ = ("answer", "deadline", "is_in_flight", "is_second_try", "is_wanted", "number", "packet", "sent_at")

    def __init__(self, number: int, packet: bytes) -> None:
        self.number = number
        self.packet = packet
        self.answer: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        """Awaited by `wait` alone, and cancelled with it."""
        self.sent_at = 0.0
        """When the request was last sent, in the loop's time."""
        self.deadline = math.inf
        """Until when the spawner must answer, in the loop's time; infinite when it is not in flight, and once it was missed."""
        self.is_in_flight = False
        """Whether the request was sent and is not answered."""
        self.is_second_try = False
        self.is_wanted = True
        """False once `wait` was cancelled."""

    async def wait(self) -> Child:
        """Wait for the child. If cancelled, a child that is started nonetheless is killed, and reaped before this returns."""
        try:
            # Not shielded, as the future can be replaced: a shield takes 5 us and another iteration of the event loop.
            return await self.answer
        except asyncio.CancelledError:
            await self._call_off()
            raise

    async def _call_off(self) -> None:
        """Wait until nothing is left of a start that is no longer wanted."""
        self.is_wanted = False
        if self.answer.cancelled():
            if not self.is_in_flight:  # it was never sent, and never will be
                return
            self.answer = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(_discard)
        with anyio.CancelScope(shield=True):
            await asyncio.wait((self.answer,))
            if self.answer.exception() is None:
                await self.answer.result().wait_released()

    def succeed(self, child: Child) -> None:
        """Pass on the child, or kill it if it comes too late."""
        if self.answer.cancelled() and self.is_wanted:  # cancelled just now: `_call_off` runs next and needs the child
            self.answer = asyncio.get_running_loop().create_future()
        if self.answer.done():
            child.discard()
        else:
            self.answer.set_result(child)

    def fail(self, error: str) -> None:
        """Raise SpawnerError in `wait`: nothing was started, or nothing of it is left."""
        if not self.answer.done():
            self.answer.set_exception(SpawnerError(error))


class PendingStarts:
    """All pending starts of a gateway, whichever spawner is running."""

    def __init__(self) -> None:
        self.waiting: deque[PendingStart] = deque()
        self.in_flight: dict[int, PendingStart] = {}
        """By number, the oldest first."""
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        """Runs until the first deadline. One timer for all starts: to set and cancel one for each takes 0.8 us."""

    def add(self, request: SpawnRequest) -> PendingStart:
        """Queue a start. Raises SpawnerError when too many wait."""
        if len(self.waiting) >= MAX_WAITING:
            raise SpawnerError("too many starts are waiting")
        self._number += 1
        start = PendingStart(self._number, request.packet(self._number))
        self.waiting.append(start)
        return start

    def next(self) -> PendingStart | None:
        """The start to send next; None while as many as may be are in flight."""
        while self.waiting and self.waiting[0].answer.done():
            self.waiting.popleft()
        return self.waiting[0] if self.waiting and len(self.in_flight) < MAX_IN_FLIGHT else None

    def note_sent(self, now: float) -> None:
        """Record that the request of `next()` was sent."""
        start = self.waiting.popleft()
        start.sent_at, start.deadline, start.is_in_flight = now, now + SPAWN_TIMEOUT, True
        self.in_flight[start.number] = start

    def take_answered(self, number: int) -> PendingStart | None:
        """Remove and return the start that the spawner answers; None if it was given up."""
        start = self.in_flight.pop(number, None)
        if start is not None:
            start.deadline, start.is_in_flight = math.inf, False
        return start

    @property
    def first_deadline(self) -> float | None:
        """The earliest deadline of the starts in flight; None if there is none."""
        deadline = min((start.deadline for start in self.in_flight.values()), default=math.inf)
        return deadline if deadline < math.inf else None

    def watch_deadlines(self, loop: asyncio.AbstractEventLoop, on_late: Callable[[], None]) -> None:
        """Call `on_late` at the earliest deadline, once for each call of this. Calls may repeat before."""
        if self._timer is None and (deadline := self.first_deadline) is not None:
            self._timer = loop.call_at(deadline, self._pass_deadline, on_late)

    def _pass_deadline(self, on_late: Callable[[], None]) -> None:
        self._timer = None
        on_late()

    @property
    def first_sent_at(self) -> float | None:
        """When the oldest request in flight was sent; None if there is none."""
        return min((start.sent_at for start in self.in_flight.values()), default=None)

    def fail_late(self, now: float) -> bool:
        """Fail the starts that missed their deadline; False if none did.

        They stay in flight until the spawner answers or dies: it may have started them.
        """
        late = [start for start in self.in_flight.values() if start.deadline <= now]
        for start in late:
            start.deadline = math.inf
            start.fail(f"it did not start within {SPAWN_TIMEOUT:g} s")
        return bool(late)

    def retry_in_flight(self) -> None:
        """After the death of the spawner: queue what it did not answer once more, before any other."""
        again: list[PendingStart] = []
        for start in tuple(self.in_flight.values()):
            self.take_answered(start.number)
            if start.is_second_try:
                start.fail("the spawner died twice while it was being started")
            elif not start.is_wanted:
                start.fail("it is no longer wanted")
            start.is_second_try = True
            if not start.answer.done():
                again.append(start)
        self.waiting.extendleft(reversed(again))

    def fail_all(self, error: str) -> None:
        """Fail every pending start."""
        for start in (*self.in_flight.values(), *self.waiting):
            self.take_answered(start.number)
            start.fail(error)
        self.waiting.clear()

    def close(self, error: str) -> None:
        """Fail every pending start, and stop watching deadlines."""
        self.fail_all(error)
        if self._timer is not None:
            self._timer.cancel()


def _discard(answer: asyncio.Future[Child]) -> None:
    """Kill the child of a start that is no longer wanted."""
    if answer.exception() is None:
        answer.result().discard()
