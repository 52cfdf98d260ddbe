"""Ports for servers that tests start."""

import itertools
import socket
from typing import Final

COUNT: Final = 128
"""Ports of this process of the tests. A port comes again after so many others, when its server has long ended."""


def _hold_port() -> socket.socket:
    """Bind a port at every address, so that the kernel gives it to no other socket by itself."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # servers that set it, too, can listen at the port
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("", 0))
    return sock


_HELD: Final = [_hold_port() for _ in range(COUNT)]
"""They stay open until the end of the process. None is opened later: tests compare the descriptors before and after."""
_NEXT: Final = itertools.cycle(_HELD)


def free_port() -> int:
    """Return a port at which nothing listens, at any address. Only a server that is told the port can listen there."""
    return int(next(_NEXT).getsockname()[1])
