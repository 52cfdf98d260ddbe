"""Process groups: killed as a whole, reaped as a whole, and found again when their parent is gone.

The spawner has its own `kill_group` and its own way to reap: it is a program by itself and imports nothing of ours.
"""

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path


def kill_group(pid: int) -> None:
    """SIGKILL to a group, and to the child that led it, should it have left."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def reap_group(pid: int) -> bool:
    """Reap what has ended of a group; False if some of it, or the child that led it, still runs."""
    for which in (-pid, pid):
        with contextlib.suppress(ChildProcessError):
            while True:
                if os.waitpid(which, os.WNOHANG)[0] == 0:
                    return False
    return True


def find_strays(session: int, groups: Collection[int]) -> list[int]:
    """Our own children in this session that belong to none of these groups.

    Every child of a spawner is in the spawner's session, so what it had started is told from children of others.
    A thread of ours that ends meanwhile hands its children to another. Raises OSError if no descriptor is left.
    """
    strays = []
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            pids = path.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == session and os.getpgid(pid) not in groups:
                    strays.append(pid)
    return strays
