"""How long a room waits for a client that reads too slowly."""

from collections import deque
from typing import Final

LIMIT: Final = 1.0
"""Seconds that one client may delay its room in any `WINDOW`."""
WINDOW: Final = 10.0
"""Seconds."""
STALLED: Final = 0.24
"""Seconds of delay after which a client that takes no byte has no patience left: 250 ms for the others, with the time to notice
it and to read the backend again."""
STUCK: Final = 1.0
"""Seconds without taking a byte after which a client is too slow although it delays nobody else."""
SLOT: Final = 0.1
"""Seconds whose delays are added up, so that a client's account stays small."""


class Patience:
    """The account of one client: how long it has delayed its room lately, and whether it still takes anything.

    All times are those of the event loop, in seconds.
    """

    __slots__ = ("_backlog", "_slots", "_spent", "_stalled", "_stuck")

    def __init__(self) -> None:
        """Begin with nothing spent."""
        self._slots: deque[tuple[float, float]] = deque()  # when each began, and what was spent in it; the oldest first
        self._spent = 0.0
        self._stalled = 0.0  # without progress, while others were delayed ...
        self._stuck = 0.0  # ... and in all
        self._backlog = 0

    def begin(self, backlog: int) -> None:
        """Begin to wait for a client with so many bytes queued for it."""
        self._backlog = backlog
        self._stalled = self._stuck = 0.0

    def spend(self, seconds: float, now: float, backlog: int, *, is_delaying: bool) -> None:
        """Count a time that ends now, in which the room waited for the client. It is charged if that delayed other clients."""
        if backlog < self._backlog:
            self.begin(backlog)
        self._stuck += seconds
        if not is_delaying:
            return
        self._stalled += seconds
        self._spent += seconds
        if self._slots and now - self._slots[-1][0] < SLOT:
            began, spent = self._slots[-1]
            self._slots[-1] = began, spent + seconds
        else:
            self._slots.append((now - seconds, seconds))

    def left(self, now: float) -> float:
        """Seconds for which the room may still be delayed; 0.0 if the client is too slow."""
        while self._slots and now - self._slots[0][0] >= WINDOW + SLOT:
            self._spent -= self._slots.popleft()[1]
        if not self._slots:
            self._spent = 0.0  # what rounding left
        return max(0.0, min(LIMIT - self._spent, STALLED - self._stalled, STUCK - self._stuck))
