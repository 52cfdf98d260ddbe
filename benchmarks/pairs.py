"""Comparing servers in pairs: rounds that follow each other are compared, and the median of their ratios counts."""

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

CONFIDENCE: Final = 0.95
IDLE_FOR: Final = 0.02
"""Seconds in which idle processes use less than `IDLE_CPU`."""
IDLE_CPU: Final = 0.0005
"""Seconds."""


class Estimate(NamedTuple):
    """A median, and the interval that holds the true one with a confidence of 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}–{self.high:.3f})"


def estimate_median(values: Sequence[float]) -> Estimate:
    """Return the median, with an interval that assumes nothing about the distribution: two of the values, by their ranks.

    Fewer than six values are too few for it; then it is their range.
    """
    ordered = sorted(values)
    count = len(ordered)
    below, tail = 0, 0.5**count
    while 2 * tail <= 1 - CONFIDENCE:  # the chance that the true median is outside the ranks `below` and its mirror image
        below += 1
        tail += math.comb(count, below) * 0.5**count
    at = max(0, below - 1)
    return Estimate(statistics.median(ordered), ordered[at], ordered[count - 1 - at])


def estimate_ratio(values: Sequence[float], to: Sequence[float]) -> Estimate:
    """Compare two servers by their rounds, which took place side by side."""
    return estimate_median([one / other for one, other in zip(values, to, strict=True)])


def read_cpu(pids: Sequence[int]) -> float:
    """Return the seconds of CPU time that processes have used, by the scheduler's own count in nanoseconds."""
    return (
        sum(int((thread / "schedstat").read_text().split()[0]) for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
        / 1e9
    )


def wait_idle(pids: Sequence[int], timeout: float = 5.0) -> float:
    """Wait until processes have nothing left to do; return the CPU time that they have used."""
    used, deadline = read_cpu(pids), time.monotonic() + timeout
    while time.monotonic() < deadline:
        time.sleep(IDLE_FOR)
        before, used = used, read_cpu(pids)
        if used - before < IDLE_CPU:
            break
    return used
