"""What a dead worker leaves behind: its spawner, its guardian and its programs, which become children of the supervisor.

The supervisor is a child subreaper, and so is each living worker; so an unknown child of the supervisor was a dead worker's. A
successor starts only when all of them have ended: a room never has two backends.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import structlog

from scalesocket.backends.process_groups import list_children
from scalesocket.backends.spawner.processes import NICENESS, ProcessStat, read_stat
from scalesocket.errors import ScalesocketError

PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
INTERVAL: Final = 0.02
"""Seconds between two checks of processes that are to end."""
PATIENCE: Final = 1.0
"""Seconds in which spawner and guardian of a dead worker end by themselves, and kill its programs; then all are killed here."""
WARN_AFTER: Final = 10.0
"""Seconds after which processes that are killed and still there are logged."""
REAP_INTERVAL: Final = 5.0
"""Seconds between two searches for orphans that have ended: programs that had left their session outlive their worker."""

log = structlog.get_logger("workers")


def become_subreaper() -> None:
    """Become the parent of processes whose parent, a worker, has ended. Raises ScalesocketError."""
    if sys.platform != "linux" or ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise ScalesocketError(f"server.workers: cannot become a child subreaper ({os.strerror(ctypes.get_errno()).lower()})")


class Leftovers:
    """The processes that dead workers have left behind."""

    def __init__(self, *, is_worker: Callable[[int], bool]) -> None:
        """`is_worker`: a child that is reaped elsewhere. Children of an earlier program in this process are not touched."""
        self._is_worker = is_worker
        self._before = frozenset(list_children())
        self._session = os.getsid(0)
        self._lowest = os.nice(0) + NICENESS

    async def wait_ended(self) -> None:
        """Wait until all have ended; kill those that do not."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        is_warned = False
        while (running := self._find_running()) is None or running:
            if loop.time() - started_at >= PATIENCE:
                for process in running or ():
                    kill_family(process)
            if loop.time() - started_at >= WARN_AFTER and not is_warned:
                is_warned = True
                log.error("processes of a dead worker do not end", pids=[process.pid for process in running or ()])
            await asyncio.sleep(INTERVAL)

    async def run(self) -> None:
        """Reap programs that outlive their worker, whenever they end."""
        while True:
            await asyncio.sleep(REAP_INTERVAL)
            self._find_running()

    def _find_running(self) -> list[ProcessStat] | None:
        """Reap what has ended, and return what runs in our session: what has left it is no backend of a room.

        None if that cannot be found out at the moment.
        """
        try:
            return [process for process in self._reap() if process.session == self._session]
        except OSError as error:  # no descriptor is left
            log.warning("search for the processes of a dead worker failed", error=str(error))
            return None

    def _reap(self) -> Iterator[ProcessStat]:
        """Raises OSError."""
        for pid in [pid for pid in list_children() if pid not in self._before and not self._is_worker(pid)]:
            with suppress(FileNotFoundError, ProcessLookupError, ChildProcessError):
                state, process = read_stat(pid)
                if process.niceness < self._lowest:  # no spawner and no program of one
                    continue
                if state not in "ZX" or os.waitpid(pid, os.WNOHANG)[0] == 0:
                    yield process


def kill_family(process: ProcessStat) -> None:
    """Kill a process and its group, unless that is ours."""
    with suppress(ProcessLookupError, PermissionError):
        if process.group != os.getpgid(0):
            os.killpg(process.group, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process.pid, signal.SIGKILL)
