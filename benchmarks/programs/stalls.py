"""Serve a site and measure stalls of its event loop: `python stalls.py SITE REPORT`.

A timer is set every millisecond; a stall is its delay, less the time in which this thread was ready to run and waited for a
CPU (which the kernel counts). At SIGUSR1 the worst stall since the last signal is written to REPORT, in milliseconds.
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


class StallMeter:
    """Measures the worst stall of one event loop."""

    def __init__(self, report: Path) -> None:
        self.report = report
        self.worst = 0.0

    def start(self, addresses: Sequence[str], admin_addresses: Sequence[str], site: Site) -> None:
        """Start measuring; the server calls this in its event loop when it listens."""
        self.loop = asyncio.get_running_loop()
        self.loop.add_signal_handler(signal.SIGUSR1, self.write)
        self.set_timer()

    def set_timer(self) -> None:
        self.waited = read_waiting()
        self.due = time.perf_counter() + PERIOD
        self.loop.call_later(PERIOD, self.on_timer)

    def on_timer(self) -> None:
        self.worst = max(self.worst, time.perf_counter() - self.due - (read_waiting() - self.waited))
        self.set_timer()

    def write(self) -> None:
        fresh = self.report.with_suffix(".new")
        fresh.write_text(f"{self.worst * 1000:.3f}")
        fresh.replace(self.report)
        self.worst = 0.0


def read_waiting() -> float:
    """Return the seconds that this thread has waited for a CPU."""
    return int(SCHEDULING.read_text().split()[1]) / 1e9


if __name__ == "__main__":
    sys.exit(serve(load_site(Path(sys.argv[1])), announce=StallMeter(Path(sys.argv[2])).start))
