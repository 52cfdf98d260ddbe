"""What the kernel holds of a connection: bytes that were written and have not left."""

import fcntl
import socket
import sys
import termios
from typing import Final

SIOCOUTQNSD: Final = 0x894B
"""Asks for the bytes of a TCP socket that were not sent yet (linux/sockios.h)."""


def count_queued(sock: socket.socket) -> int:
    """Bytes that the kernel holds for the peer: not sent yet, on TCP, or not read yet, on a unix socket; 0 for a closed one.

    What was sent but not acknowledged does not count: the last acknowledgement may be delayed by 200 ms (RFC 1122 4.2.3.2).
    """
    count = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ if sock.family == socket.AF_UNIX else SIOCOUTQNSD, count)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)
