"""The limits of open files: the spawner runs with the hard limit, its children start with the gateway's soft limit."""

import fcntl
import os
import resource
from typing import Final

RESERVED: Final = 64
"""Descriptors below the soft limit that stay free for a start, which uses a few."""


class DescriptorLimits:
    """Switches between the two limits, and keeps low descriptors free."""

    def __init__(self, soft: int) -> None:
        """`soft`: the children's soft limit."""
        self.soft = soft
        self.hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.highest_low_pidfd = soft - RESERVED if soft < self.hard else self.hard

    def use_soft(self) -> None:
        """Set the limit that a child inherits, just before it is started."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.soft, self.hard))

    def use_hard(self) -> None:
        """Set the spawner's own limit."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.hard, self.hard))

    def open_pidfd(self, pid: int) -> int:
        """Open a descriptor that becomes readable when the child ends. Above the soft limit, once low ones get scarce."""
        low = os.pidfd_open(pid)
        if low < self.highest_low_pidfd:
            return low
        try:
            return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, self.soft)
        finally:
            os.close(low)
