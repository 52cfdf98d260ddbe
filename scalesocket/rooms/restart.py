"""When a backend that has ended is restarted, and when the room gives up."""

from collections import deque
from random import Random
from typing import Final

MAX_RESTARTS: Final = 5
"""Restarts within `WINDOW`; then the room gives up."""
WINDOW: Final = 60.0
"""Seconds."""
FIRST_DELAY: Final = 0.1
"""Seconds before the first restart in a window; each further one waits twice as long."""
_RNG: Final = Random()  # one for all rooms: seeding another costs 10 us


class RestartPolicy:
    """Exponential backoff with jitter for one room. It reads no clock and does not wait."""

    __slots__ = ("_restarts", "_rng")

    def __init__(self, rng: Random | None = None) -> None:
        """Take random numbers from `rng`, or from the generator of all rooms."""
        self._rng = rng or _RNG
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)  # their times, within the window

    def decide(self, now: float) -> float | None:
        """Return the seconds to wait before the next start, or None to give up after 5 restarts in 60 s.

        `now`: seconds of a monotonic clock. The delay is 0.1 s, doubled for each restart in the last minute, less a random part
        of up to half, so that rooms that failed together do not restart together.
        """
        while self._restarts and now - self._restarts[0] >= WINDOW:
            self._restarts.popleft()
        if len(self._restarts) == MAX_RESTARTS:
            return None
        delay: float = FIRST_DELAY * 2 ** len(self._restarts) * self._rng.uniform(0.5, 1.0)
        self._restarts.append(now)
        return delay
