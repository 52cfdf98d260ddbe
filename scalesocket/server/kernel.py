"""What the kernel says of a connection: bytes that it has not sent yet, and bytes that the peer has acknowledged."""

import fcntl
import socket
import sys
import termios
from typing import Final

SIOCOUTQNSD: Final = 0x894B
"""Asks for the bytes of a TCP socket that were not sent yet (linux/sockios.h)."""
TCP_INFO_SIZE: Final = 128
BYTES_ACKED: Final = slice(120, 128)
"""Place of `tcpi_bytes_acked` in struct tcp_info (linux/tcp.h)."""


def count_unsent(sock: socket.socket) -> int:
    """Count the bytes that the kernel holds for the peer: not sent yet, or on a unix socket not read yet; 0 if closed.

    Bytes sent but not acknowledged do not count: the last acknowledgement may be delayed by 200 ms (RFC 1122 4.2.3.2).
    """
    count = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ if sock.family == socket.AF_UNIX else SIOCOUTQNSD, count)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)


def count_acknowledged(sock: socket.socket) -> int:
    """Count the bytes that the peer's kernel has acknowledged on a TCP connection; 0 if closed."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except OSError:
        return 0
    return int.from_bytes(info[BYTES_ACKED], sys.byteorder)
