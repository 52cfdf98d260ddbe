"""Process groups of which the gateway became the parent: reaped as a whole, and found if no spawner reported them."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from scalesocket.backends.spawner.processes import TICKS, read_stat


def reap_group(pid: int) -> bool:
    """Reap what has ended of a group; False if some of it, or the child that led it, still runs."""
    for which in (-pid, pid):
        with suppress(ChildProcessError):
            while True:
                if os.waitpid(which, os.WNOHANG)[0] == 0:
                    return False
    return True


def list_children() -> Iterator[int]:
    """List the children of this process. A thread that ends meanwhile hands its children to another.

    Raises OSError if no descriptor is left.
    """
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, path.read_text().split())


def find_unreported_children(spawner: int, is_known: Callable[[int], bool], since: float) -> list[int]:
    """Find children that a dead spawner started after `since` and did not report: their group is not known.

    They have the gateway's session, and lead a group of their own or are still in the spawner's. `since`, in seconds of
    CLOCK_BOOTTIME, excludes older processes that running programs left behind. Raises OSError if no descriptor is left.
    """
    session = os.getsid(0)
    found = []
    for pid in list_children():
        with suppress(ProcessLookupError, FileNotFoundError):
            child = read_stat(pid)[1]
            is_started_by_it = child.session == session and child.group in (pid, spawner)
            if is_started_by_it and not is_known(child.group) and child.started / TICKS >= since:
                found.append(pid)
    return found
