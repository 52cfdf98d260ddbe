"""Process groups: killed as a whole, reaped as a whole, and found again when their parent is gone."""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path


def reap_group(pid: int) -> bool:
    """Reap what has ended of a group; False if some of it, or the child that led it, still runs."""
    for which in (-pid, pid):
        with contextlib.suppress(ChildProcessError):
            while True:
                if os.waitpid(which, os.WNOHANG)[0] == 0:
                    return False
    return True


def find_strays(spawner: int, groups: Collection[int], since: float) -> list[int]:
    """Our own children that a spawner that is gone has started after `since`, and that belong to none of these groups.

    They are of our session, and lead a group of their own or are still in that of the spawner; `since`, in seconds of
    CLOCK_BOOTTIME, tells them from what running programs had started and left to us.
    A thread of ours that ends meanwhile hands its children to another. Raises OSError if no descriptor is left.
    """
    session = os.getsid(0)
    strays = []
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            pids = path.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                group = os.getpgid(pid)
                is_its = os.getsid(pid) == session and group in (pid, spawner)
                if is_its and group not in groups and _started_at(pid) >= since:
                    strays.append(pid)
    return strays


def _started_at(pid: int) -> float:
    """When a process started (proc_pid_stat(5)), in seconds of CLOCK_BOOTTIME, to the hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
