"""Closing a connection after the last bytes for its peer."""

import asyncio

from scalesocket.edge.limits import CLOSE_TIMEOUT
from scalesocket.server.connections import Connections


class LingeringClose(asyncio.Protocol):
    """Ends our side of a connection after what was written, drops further input, and aborts after `CLOSE_TIMEOUT`.

    Closing with unread input sends a reset, which can discard the response (RFC 9112 9.6).
    """

    __slots__ = ("_connections", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, connections: Connections) -> None:
        """Replace the protocol of `transport`, which is one of `connections`."""
        self._transport = transport
        self._connections = connections
        self._timer = connections.loop.call_later(CLOSE_TIMEOUT, transport.abort)
        transport.set_protocol(self)
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self._timer.cancel()
        self._connections.forget(self._transport)
