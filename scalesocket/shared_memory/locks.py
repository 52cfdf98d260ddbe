"""Short locks between the workers, on single bytes of the shared memory's file. The kernel releases them when a process ends."""

import os
import struct
import time
from fcntl import F_OFD_SETLK, F_UNLCK, F_WRLCK, fcntl
from typing import Final

WAIT: Final = 0.005
"""Seconds to wait for a lock. It is usually held for microseconds; but its holder may wait for a CPU, or be stopped."""
YIELDS: Final = 4
"""Attempts that only yield the CPU in between; later ones sleep."""
PAUSE: Final = 0.0001
"""Seconds between two attempts."""
FIRST_RETRY: Final = 0.01
"""Seconds after a wait in vain in which this process does not wait for the same lock again; twice as long after each further one,
up to LONGEST_RETRY. So a stopped holder costs others 2 % of their time."""
LONGEST_RETRY: Final = 0.32
MAX_STUCK: Final = 256
"""Locks that were waited for in vain, and are remembered."""

_FLOCK: Final = struct.Struct("hhqqi4x")
"""`struct flock`: type, whence, start, length, and a pid, which must be 0."""


class Locks:
    """The locks, in one process. The caller decides without the lock if it is not to be had."""

    __slots__ = ("_fd", "_stuck")

    def __init__(self, fd: int) -> None:
        """Lock bytes of an open file description that no other process has."""
        self._fd = fd
        self._stuck: dict[int, tuple[float, float]] = {}
        """By byte: until when this process does not wait for its lock, and how long that is."""

    def acquire(self, at: int, wait: float = WAIT) -> bool:
        """Lock the byte `at`. Return False if that takes longer than `wait` seconds. This process does not hold the lock yet."""
        request = _FLOCK.pack(F_WRLCK, os.SEEK_SET, at, 1, 0)
        return self._try(request) or self._wait(at, request, wait)

    def release(self, at: int) -> None:
        """Unlock the byte."""
        fcntl(self._fd, F_OFD_SETLK, _FLOCK.pack(F_UNLCK, os.SEEK_SET, at, 1, 0))

    def _try(self, request: bytes) -> bool:
        try:
            fcntl(self._fd, F_OFD_SETLK, request)
        except OSError:  # EAGAIN: it is held; ENOLCK: the kernel has no memory for it
            return False
        return True

    def _wait(self, at: int, request: bytes, wait: float) -> bool:
        now = time.monotonic()
        until, pause = self._stuck.get(at, (0.0, FIRST_RETRY / 2))
        if now < until:
            return False
        deadline, attempts = now + wait, 0
        while now < deadline:
            attempts += 1
            if attempts <= YIELDS:
                os.sched_yield()
            else:
                time.sleep(PAUSE)
            if self._try(request):
                self._stuck.pop(at, None)
                return True
            now = time.monotonic()
        if len(self._stuck) >= MAX_STUCK:
            self._stuck.clear()
        pause = min(2 * pause, LONGEST_RETRY)
        self._stuck[at] = now + pause, pause
        return False
