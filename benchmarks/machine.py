"""The machine of a run."""

import datetime
import os
import platform
from pathlib import Path


def describe_machine() -> dict[str, str]:
    """Processor, memory, kernel and Python, for the report."""
    return {
        "processor": f"{read_field('/proc/cpuinfo', 'model name') or platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def is_busy() -> bool:
    """Whether other programs already use more than a quarter of the CPUs."""
    return os.getloadavg()[0] > (os.cpu_count() or 1) / 4


def read_field(path: str, name: str) -> str | None:
    """Return the first `name : value` of a file under /proc."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), None)
