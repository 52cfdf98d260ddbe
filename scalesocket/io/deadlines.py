"""Deadlines of one length for many connections. One timer serves all: a timer for each would cost a handshake 2 us of its 50."""

import asyncio
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class HasDeadline(Protocol):
    """A connection that waits for something."""

    def time_out(self) -> None:
        """End the wait: it has taken too long."""


Waiting = TypeVar("Waiting", bound=HasDeadline)


class Deadlines(Generic[Waiting]):
    """Times out connections that have waited for `timeout`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: Callable[[], float]) -> None:
        """Start without any. `timeout`: the seconds that a connection has, read whenever the timer runs."""
        self._loop = loop
        self._timeout = timeout
        self._started_at: dict[Waiting, float] = {}  # in the loop's time, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def start(self, connection: Waiting) -> None:
        """Start the clock of a connection."""
        self._started_at[connection] = self._loop.time()
        if self._timer is None:
            self._schedule()

    def stop(self, connection: Waiting) -> None:
        """Stop the clock of a connection. Calls may repeat."""
        self._started_at.pop(connection, None)

    @property
    def oldest_at(self) -> float:
        """When the connection that has waited longest began, in the loop's time; infinite if none waits."""
        return next(iter(self._started_at.values()), math.inf)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        oldest = next(iter(self._started_at.values()))
        self._timer = self._loop.call_at(oldest + self._timeout(), self._time_out_late)

    def _time_out_late(self) -> None:
        self._timer = None
        latest = self._loop.time() - self._timeout()
        for connection, started_at in tuple(self._started_at.items()):
            if started_at > latest:
                break
            if self._started_at.pop(connection, None) is not None:  # else the end of another one has stopped it
                connection.time_out()
        if self._started_at:
            self._schedule()
