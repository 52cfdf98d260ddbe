"""The delay before a worker is started again: short at first, longer if it ends again and again. It never gives up."""

from collections import deque
from random import Random
from typing import Final

WINDOW: Final = 60.0
"""Seconds in which starts count."""
FIRST_DELAY: Final = 0.1
"""Seconds before the first restart in a window; each further one waits twice as long."""
LONGEST_DELAY: Final = 10.0
_RNG: Final = Random()


class Backoff:
    """Exponential backoff with jitter. It reads no clock and does not wait."""

    def __init__(self, rng: Random = _RNG) -> None:
        self._rng = rng
        self._restarts: deque[float] = deque()

    @property
    def recent(self) -> int:
        """Restarts within the window, as of the last `next_delay`."""
        return len(self._restarts)

    def next_delay(self, now: float) -> float:
        """Return the seconds to wait before the next start. `now`: seconds of a monotonic clock.

        The delay is less a random part of up to half, so that workers that ended together do not start together.
        """
        while self._restarts and now - self._restarts[0] >= WINDOW:
            self._restarts.popleft()
        delay = min(FIRST_DELAY * 2.0 ** len(self._restarts), LONGEST_DELAY) * self._rng.uniform(0.5, 1.0)
        self._restarts.append(now)
        return delay
