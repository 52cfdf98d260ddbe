"""Serve a site, and watch how long the loop is away from its timers: `python stalls.py SITE REPORT`.

A timer is asked for every millisecond; a stall is how much later it comes. The time this thread was ready to run and waited for
a processor (the kernel counts it) is no fault of the loop and is taken out. At SIGUSR1 the worst since the last one is written
to REPORT, in milliseconds.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scalesocket.config.load import load_site
from scalesocket.config.model import Site
from scalesocket.supervisor import serve

PERIOD: Final = 0.001
SCHEDULING: Final = Path("/proc/thread-self/schedstat")


class Watch:
    """The worst stall of one loop."""

    def __init__(self, report: Path) -> None:
        self.report = report
        self.worst = 0.0

    def start(self, addresses: Sequence[str], site: Site) -> None:
        """Begin; called by the server within its loop, once it listens."""
        self.loop = asyncio.get_running_loop()
        self.loop.add_signal_handler(signal.SIGUSR1, self.write)
        self.ask()

    def ask(self) -> None:
        self.waited = read_waiting()
        self.due = time.perf_counter() + PERIOD
        self.loop.call_later(PERIOD, self.came)

    def came(self) -> None:
        self.worst = max(self.worst, time.perf_counter() - self.due - (read_waiting() - self.waited))
        self.ask()

    def write(self) -> None:
        fresh = self.report.with_suffix(".new")
        fresh.write_text(f"{self.worst * 1000:.3f}")
        fresh.replace(self.report)
        self.worst = 0.0


def read_waiting() -> float:
    """Seconds this thread has waited for a processor since it began."""
    return int(SCHEDULING.read_text().split()[1]) / 1e9


if __name__ == "__main__":
    sys.exit(serve(load_site(Path(sys.argv[1])), announce=Watch(Path(sys.argv[2])).start))
