"""When a room's backend is started again after it ended, and when no more."""

from collections import deque
from random import Random
from typing import Final

MAX_RESTARTS: Final = 5
"""Restarts within `WINDOW`; then the room gives up."""
WINDOW: Final = 60.0
"""Seconds."""
FIRST_DELAY: Final = 0.1
"""Seconds before the first restart in a window; each further one waits twice as long."""
_RNG: Final = Random()  # one for all rooms: to seed another costs 10 us


class RestartPolicy:
    """Jittered exponential backoff for one room; it keeps no clock and waits for nothing."""

    __slots__ = ("_restarts", "_rng")

    def __init__(self, rng: Random | None = None) -> None:
        """Take chance from `rng`, or from the generator of all rooms."""
        self._rng = rng or _RNG
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)  # when they were decided, in the window

    def decide(self, now: float) -> float | None:
        """Return the seconds to wait before the next start, or None to give up: it was started 5 times in 60 s.

        `now`: in seconds, of a clock that never goes back. The delay is 0.1 s, doubled for each restart within the last
        minute, less up to half of it by chance, so that rooms which failed together do not come back together.
        """
        while self._restarts and now - self._restarts[0] >= WINDOW:
            self._restarts.popleft()
        if len(self._restarts) == MAX_RESTARTS:
            return None
        delay: float = FIRST_DELAY * 2 ** len(self._restarts) * self._rng.uniform(0.5, 1.0)
        self._restarts.append(now)
        return delay
