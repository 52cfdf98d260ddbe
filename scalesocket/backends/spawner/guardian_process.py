"""The guardian as its parent, the spawner, sees it: started, watched by a pidfd, replaced when it dies."""

import os
import select
import signal
import time
from contextlib import suppress
from typing import Final

from scalesocket.backends.spawner.cgroups import RoomGroups
from scalesocket.backends.spawner.descriptors import DescriptorLimits
from scalesocket.backends.spawner.group_table import GroupTable
from scalesocket.backends.spawner.guardian import fork_guardian
from scalesocket.backends.spawner.last_word import SharedLastWord

RETRY_PAUSE: Final = 1.0
"""Seconds between two attempts to start a guardian."""


class GuardianProcess:
    """The current guardian, if there is one."""

    def __init__(
        self,
        poll: select.epoll,
        limits: DescriptorLimits,
        table: GroupTable,
        room_groups: RoomGroups,
        last_word: SharedLastWord,
        *,
        pipe_read_end: int,
        timer: int,
        gateway: int,
    ) -> None:
        """`poll` reports its end as an event of `pidfd`. `timer`: the descriptor that it shares; -1 if there is none."""
        self.poll = poll
        self.limits = limits
        self.table = table
        self.room_groups = room_groups
        self.last_word = last_word
        self.pipe_read_end = pipe_read_end
        self.timer = timer
        self.gateway = gateway
        self.pid = 0
        """0 while there is none."""
        self.pidfd = -1
        self.next_attempt = 0.0

    @property
    def is_due(self) -> bool:
        """Whether there is none and it is time to start one."""
        return not self.pid and time.monotonic() >= self.next_attempt

    def start(self) -> None:
        """Start a guardian; if that fails, `pid` stays 0 and the next attempt is due after RETRY_PAUSE."""
        self.next_attempt = time.monotonic() + RETRY_PAUSE
        with suppress(OSError):
            self.pid = fork_guardian(self.table, self.room_groups, self.last_word, self.pipe_read_end, self.timer, self.gateway)
            self.pidfd = self.limits.open_pidfd(self.pid)
            self.poll.register(self.pidfd, select.EPOLLIN)

    def end(self) -> None:
        """Kill it, if it has not ended, and reap it."""
        if self.pidfd >= 0:
            self.poll.unregister(self.pidfd)
            os.close(self.pidfd)
        if self.pid:
            with suppress(ChildProcessError):  # it was reaped with the orphans
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        self.pid, self.pidfd = 0, -1
