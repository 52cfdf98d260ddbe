"""Children whose spawner died: the gateway became their parent, and watches and reaps them itself."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from scalesocket.backends.child import Child
from scalesocket.backends.process_groups import reap_group
from scalesocket.backends.spawner.processes import kill_group

CHECK_INTERVAL: Final = 0.5
"""Seconds between two checks of a child without a descriptor to watch it by."""
REAP_INTERVAL: Final = 0.01
"""Seconds between two attempts to reap a killed group."""


class AdoptedChildren:
    """Watches adopted children, from `adopt` until their groups are reaped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_reaped: Callable[[Child], None]) -> None:
        """`on_reaped` is called once for each child, when its whole group was reaped."""
        self._loop = loop
        self._on_reaped = on_reaped
        self._pidfds: dict[int, int] = {}
        """By pid; -1 without a descriptor, and once the process has ended."""

    def __contains__(self, pid: int) -> bool:
        """Whether this is an adopted child whose group is not reaped yet."""
        return pid in self._pidfds

    def __len__(self) -> int:
        """The number of adopted children whose groups are not reaped yet."""
        return len(self._pidfds)

    def adopt(self, child: Child) -> None:
        """Watch a child of a spawner that died."""
        self._pidfds[child.pid] = -1
        try:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # the spawner reaped it, and died before it could report that
            child.is_released = True
            child.note_exit(-signal.SIGKILL)
            self._forget(child)
            return
        if not child.ended.done():
            with suppress(OSError):  # no descriptor is left: `_check` looks again after CHECK_INTERVAL
                self._pidfds[child.pid] = pidfd = os.pidfd_open(child.pid)
                self._loop.add_reader(pidfd, self._check, child)
            self._check(child)
        if child.is_released:
            kill_group(child.pid)
            self.reap(child)

    def reap(self, child: Child) -> None:
        """Reap its killed group, now or as soon as it has ended."""
        if child.pid not in self:
            return
        if child.exit is not None and reap_group(child.pid):
            self._forget(child)
        else:
            self._loop.call_later(REAP_INTERVAL, self.reap, child)

    def kill(self, pid: int) -> None:
        """Kill and reap a group at once, and forget it without a call of `on_reaped`."""
        kill_group(pid)
        reap_group(pid)
        self._unwatch(pid)
        del self._pidfds[pid]

    def _check(self, child: Child) -> None:
        """Record the exit of a child that has ended."""
        if child.pid not in self or child.ended.done():
            return
        end = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is not None:
            self._unwatch(child.pid)
            child.note_exit(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
        elif self._pidfds[child.pid] < 0:
            self._loop.call_later(CHECK_INTERVAL, self._check, child)

    def _unwatch(self, pid: int) -> None:
        pidfd = self._pidfds[pid]
        if pidfd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(pidfd)
            os.close(pidfd)
            self._pidfds[pid] = -1

    def _forget(self, child: Child) -> None:
        self._unwatch(child.pid)
        del self._pidfds[child.pid]
        self._on_reaped(child)
