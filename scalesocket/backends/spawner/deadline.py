"""The deadline of all backends: the spawner kills them at a time in CLOCK_BOOTTIME, unless the gateway has given a later one.

The guardian sees it too (guardian.py): it shares the timer, and the table of groups in which the deadline stands.
"""

import os
import select
import socket
import time
from contextlib import suppress
from typing import Final

from scalesocket.backends.spawner.group_table import GroupTable
from scalesocket.backends.spawner.timer import NANOSECONDS, BoottimeTimer

EARLY: Final = 1_000_000
"""Nanoseconds by which it may be early, so that no rounding makes it miss the event of the timer."""


class Deadline:
    """The deadline in force, and the sockets that are shut down at it."""

    def __init__(self, poll: select.epoll, table: GroupTable) -> None:
        """`poll` returns at the deadline; it reports an event of `timer.fd` once for each deadline."""
        self.table = table
        self.timer = BoottimeTimer()
        if self.timer.fd >= 0:
            poll.register(self.timer.fd, select.EPOLLIN | select.EPOLLET)  # it is never read: the guardian would miss the event
        self.at: float | None = None
        """As the gateway gave it, in seconds."""
        self.at_ns = 0
        self.is_expired = False
        """Whether it has passed and the backends were killed."""
        self.sockets: dict[int, socket.socket] = {}
        """Duplicates of the gateway's sockets to targets, by their numbers."""

    @property
    def is_due(self) -> bool:
        """Whether it has passed, and the backends were not killed yet."""
        return self.at is not None and not self.is_expired and time.clock_gettime_ns(time.CLOCK_BOOTTIME) + EARLY >= self.at_ns

    @property
    def forbids_starts(self) -> bool:
        """Whether the deadline has passed: no backend may start."""
        return self.is_expired or self.is_due

    def set(self, at: float | None) -> None:
        """Replace the deadline; None: by none. Without a timer in the kernel, any deadline has passed."""
        self.at, self.is_expired = at, False
        self.at_ns = 0 if at is None else max(1, int(at * NANOSECONDS)) if self.timer.fd >= 0 else 1
        self.table.deadline = self.at_ns
        if self.timer.fd >= 0:
            self.timer.set(self.at_ns)
        if at is None:
            for number in tuple(self.sockets):
                self.release(number)

    def note_kill(self) -> None:
        """Note that the backends were killed. The guardian has nothing left to do."""
        self.is_expired = True
        self.table.deadline = 0

    def guard(self, number: int, fd: int) -> None:
        """Shut down a socket at the deadline. Owns the descriptor."""
        try:
            self.sockets[number] = socket.socket(fileno=fd)
        except OSError:  # it is no socket
            os.close(fd)
        if self.is_expired:
            self.shut_down()

    def release(self, number: int) -> None:
        """Forget a socket and close the duplicate."""
        guarded = self.sockets.pop(number, None)
        if guarded is not None:
            guarded.close()

    def shut_down(self) -> None:
        """Shut down all sockets, in both directions."""
        for guarded in self.sockets.values():
            with suppress(OSError):  # it is no longer connected
                guarded.shutdown(socket.SHUT_RDWR)
