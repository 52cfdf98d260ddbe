"""Children that outlived their spawner: the gateway's own by then, which watches and reaps them itself."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from scalesocket.backends.child import Child
from scalesocket.backends.groups import reap_group
from scalesocket.backends.spawner.processes import kill_group

LOOK: Final = 0.5
"""Seconds between looks at a child when there is no descriptor to watch it by."""
POLL: Final = 0.01
"""Seconds between looks at a group that was killed and is to be reaped."""


class Orphans:
    """Watches adopted children in one loop, from `adopt` until nothing is left of their groups."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[Child], None]) -> None:
        """`on_gone` is told once of each child, when its whole group was reaped."""
        self._loop = loop
        self._on_gone = on_gone
        self._pidfds: dict[int, int] = {}
        """By pid; -1 without a descriptor, and once the process has ended."""

    def __contains__(self, pid: int) -> bool:
        """Whether this is an adopted child of which something is left."""
        return pid in self._pidfds

    def adopt(self, child: Child) -> None:
        """Watch a child of a spawner that died."""
        self._pidfds[child.pid] = -1
        try:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # it was reaped, and the spawner died before it could say so
            child.is_released = True
            child.note_exit(-signal.SIGKILL)
            self._forget(child)
            return
        if not child.ended.done():
            with suppress(OSError):  # no descriptor is left: then it is looked after now and then
                self._pidfds[child.pid] = pidfd = os.pidfd_open(child.pid)
                self._loop.add_reader(pidfd, self._look_after, child)
            self._look_after(child)
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
            self._loop.call_later(POLL, self.reap, child)

    def end(self, pid: int) -> None:
        """Kill and reap a group at once, and forget it without a word."""
        kill_group(pid)
        reap_group(pid)
        self._unwatch(pid)
        del self._pidfds[pid]

    def _look_after(self, child: Child) -> None:
        """See whether a child has ended."""
        if child.pid not in self or child.ended.done():
            return
        end = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is not None:
            self._unwatch(child.pid)
            child.note_exit(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
        elif self._pidfds[child.pid] < 0:
            self._loop.call_later(LOOK, self._look_after, child)

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
        self._on_gone(child)
