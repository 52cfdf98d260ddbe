"""The streams by which Hypercorn reads from and writes to a connection."""

import asyncio
import math
import socket
from contextlib import suppress
from typing import Final, cast

from scalesocket.server.hypercorn.context import ConnectionContext
from scalesocket.server.kernel import count_unsent

KEEP_ALIVE_PROBES: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}
"""How the kernel finds dead peers: idle seconds before a probe, seconds between probes, unanswered probes, and milliseconds for
which nothing that was sent is acknowledged."""
CHECKS: Final = 4
"""Checks of a half-closed connection in each `stall_timeout`."""


class StreamProtocol(asyncio.StreamReaderProtocol):
    """asyncio's stream protocol, which notes when the peer has left.

    Hypercorn waits without a deadline until the peer takes what was sent, even after the peer has ended its side. So a peer that
    has ended its side and takes nothing for `stall_timeout` is cut.
    """

    def __init__(self, reader: asyncio.StreamReader, context: ConnectionContext) -> None:
        super().__init__(reader)
        self._context = context
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start on a transport."""
        super().connection_made(transport)
        self._own_transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End reading, writing, and the sleep between two pings."""
        super().connection_lost(exc)
        self._context.lost.set()
        if self._timer is not None:
            self._timer.cancel()

    def eof_received(self) -> bool | None:
        """End reading, and cut the connection if the peer takes no more of what is unsent."""
        keep_open = super().eof_received()
        self._context.lost.set()
        self._check_progress(math.inf, 0.0)
        return keep_open

    def _check_progress(self, unsent: float, deadline: float) -> None:
        """Cut the connection if the peer has taken nothing until `deadline`; check again later. `unsent`: at the last check."""
        transport, timeout = self._own_transport, self._context.stall_timeout
        loop = asyncio.get_running_loop()
        sock = transport.get_extra_info("socket")
        unsent_now = transport.get_write_buffer_size() + (count_unsent(sock) if sock is not None else 0)
        if unsent_now < unsent:
            unsent, deadline = unsent_now, loop.time() + timeout
        elif unsent and loop.time() >= deadline:
            cut(transport)
            return
        self._timer = loop.call_later(timeout / CHECKS, self._check_progress, unsent, deadline)


class StreamWriter(asyncio.StreamWriter):
    """asyncio's stream writer, which drops what is written after the end of the connection.

    Each websocket of an HTTP/2 connection may still send something when the peer has left. A TLS transport logs a warning for
    each of these writes.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, unless the connection has ended."""
        if not self.transport.is_closing():
            super().write(data)


def cut(transport: asyncio.BaseTransport) -> None:
    """Abort a connection, even one that was closed before."""
    with suppress(AttributeError):  # asyncio's TLS transport in Python 3.11.2 raises it after Hypercorn has closed it twice
        cast(asyncio.Transport, transport).abort()


def enable_keep_alive(transport: asyncio.Transport) -> None:
    """Let the kernel find dead peers: Hypercorn sends pings but does not check for pongs."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # it may be closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE_PROBES.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
