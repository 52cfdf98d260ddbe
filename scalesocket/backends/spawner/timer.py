"""A timer in CLOCK_BOOTTIME, the clock that also runs while the machine is suspended (timerfd_create(2)).

Python has timerfd since 3.13 only, and a wait with a timeout does not count the time of a suspended machine.
"""

import ctypes
import os
from typing import Final

CLOCK_BOOTTIME: Final = 7  # linux/time.h
TFD_TIMER_ABSTIME: Final = 1  # linux/timerfd.h
NANOSECONDS: Final = 1_000_000_000


class Timespec(ctypes.Structure):
    """timespec of the C library."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Setting(ctypes.Structure):
    """itimerspec of the C library."""

    _fields_ = (("interval", Timespec), ("at", Timespec))


class BoottimeTimer:
    """A descriptor that is readable from a time on. Processes that were forked later share it."""

    def __init__(self) -> None:
        """Create it, not set. Without such a timer in the kernel (Linux 3.15), `fd` is -1."""
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self.libc.timerfd_create(CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self, at: int) -> None:
        """Set it to `at` nanoseconds, which may have passed; 0: to no time. Raises OSError."""
        setting = Setting(at=Timespec(*divmod(at, NANOSECONDS)))
        if self.libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, ctypes.byref(setting), None) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
