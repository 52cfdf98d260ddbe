"""Reaps orphans of the backends that became the gateway's children because their spawner died."""

import asyncio
import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from scalesocket.backends.process_groups import list_children
from scalesocket.backends.spawner.processes import NICENESS, read_stat
from scalesocket.errors import SpawnerError

PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
INTERVAL: Final = 5.0
"""Seconds between two searches for zombies, while there are orphans or adopted children."""

log = structlog.get_logger()


def become_subreaper() -> None:
    """Have this process become the parent of all descendants that lose theirs. Raises SpawnerError."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SpawnerError(f"cannot become a child subreaper: {os.strerror(ctypes.get_errno()).lower()}")


class OrphanReaper:
    """Looks for zombies from `start` until no orphan is left, and no adopted child that could leave one.

    An orphan is a process that a program left behind. While its spawner lives, that one reaps it; otherwise the gateway
    must, which is a child subreaper too. Only children with a higher niceness than the gateway's are reaped, as all
    processes of backends have: so programs that the application beside the server started are left to it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, is_known: Callable[[int], bool], has_adopted: Callable[[], bool]
    ) -> None:
        """`is_known`: a child that is reaped elsewhere. `has_adopted`: whether adopted children are left."""
        self._loop = loop
        self._is_known = is_known
        self._has_adopted = has_adopted
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look for zombies from now on. Calls may repeat."""
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._search)

    def close(self) -> None:
        """Stop. Calls may repeat."""
        if self._timer is not None:
            self._timer.cancel()

    def _search(self) -> None:
        self._timer = None
        if reap_orphans(self._is_known) or self._has_adopted():
            self.start()


def reap_orphans(is_known: Callable[[int], bool]) -> bool:
    """Reap the orphans that have ended; False if none is left. `is_known`: a child that is reaped elsewhere."""
    lowest = os.nice(0) + NICENESS
    has_running = False
    try:
        for pid in list_children():
            if is_known(pid):
                continue
            with suppress(FileNotFoundError, ProcessLookupError, ChildProcessError):
                state, child = read_stat(pid)
                if child.niceness >= lowest:
                    has_running |= state not in "ZX" or os.waitpid(pid, os.WNOHANG)[0] == 0
    except OSError as error:
        log.warning("search for ended orphans failed", error=str(error), retry_in=INTERVAL)
        return True
    return has_running
