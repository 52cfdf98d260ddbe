"""Socket options by which connections between nodes detect that the machine at the other end has failed."""

import socket
from typing import Final

TCP_USER_TIMEOUT: Final = 18  # linux/tcp.h; Python has a name for it on some systems only
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


def keep_alive(sock: socket.socket) -> None:
    """Send small messages at once, and end an idle connection within half a minute after the other machine is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def set_user_timeout(sock: socket.socket, seconds: float) -> None:
    """End the connection if the other end does not acknowledge for so long what was sent, or takes nothing (RFC 5482)."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, int(1000 * seconds))
