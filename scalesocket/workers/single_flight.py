"""One call at a time for each question: all callers share its answer, also for a moment after."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar, cast

LIFETIME: Final = 0.05
"""Seconds for which an answer is used again. Supervisor and worker both keep it, so a page is at most twice as old."""
MAX_KEPT: Final = 256
"""Questions whose answers are kept; beyond that the oldest is forgotten."""

Answer = TypeVar("Answer")


class SingleFlight(Generic[Answer]):
    """Asks each question once at a time, however many wait for its answer."""

    def __init__(self, lifetime: float = LIFETIME) -> None:
        """`lifetime`: seconds for which an answer is used again. An error is shared with those who wait, and not kept."""
        self._lifetime = lifetime
        self._loop = asyncio.get_running_loop()
        self._flights: dict[Hashable, tuple[asyncio.Task[Answer], float]] = {}
        """By question: the task that asks it, and until when its result may be used."""

    async def ask(self, question: Hashable, find: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer to a question, which `find` finds unless it is known or being found. Raises what `find` raises.

        Cancelling one who waits does not cancel `find`, for which the others wait; it must have a deadline of its own.
        """
        flight = self._flights.get(question)
        if flight is None or (flight[0].done() and flight[1] <= self._loop.time()):
            task = self._loop.create_task(_run(find), name="shared question")
            self._flights.pop(question, None)
            self._flights[question] = flight = (task, float("inf"))
            task.add_done_callback(lambda done: self._note_done(question, done))
            while len(self._flights) > MAX_KEPT:
                del self._flights[next(iter(self._flights))]
        return cast(Answer, await asyncio.shield(flight[0]))

    def _note_done(self, question: Hashable, task: asyncio.Task[Answer]) -> None:
        flight = self._flights.get(question)
        if flight is None or flight[0] is not task:
            return
        if task.cancelled() or task.exception() is not None:
            del self._flights[question]
        else:
            self._flights[question] = (task, self._loop.time() + self._lifetime)


async def _run(find: Callable[[], Awaitable[Answer]]) -> Answer:
    return await find()
