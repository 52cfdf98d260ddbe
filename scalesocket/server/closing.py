"""The end of connections: last bytes that no reset overtakes, and deadlines for peers that do not close."""

import asyncio

from scalesocket.edge.client import Client
from scalesocket.edge.limits import CLOSE_TIMEOUT
from scalesocket.server.connections import Connections


def end_output(transport: asyncio.Transport) -> None:
    """End our side of a connection after what was written. Input is still read.

    Closing with unread input sends a reset, which can discard what was written last (RFC 9293 3.10.4, RFC 9112 9.6).
    """
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()


class LingeringClose(asyncio.Protocol):
    """Ends our side of a connection, drops further input, and aborts the connection after `CLOSE_TIMEOUT`."""

    __slots__ = ("_connections", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, connections: Connections) -> None:
        """Replace the protocol of `transport`, which is one of `connections`."""
        self._transport = transport
        self._connections = connections
        self._timer = connections.loop.call_later(CLOSE_TIMEOUT, transport.abort)
        transport.set_protocol(self)
        end_output(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self._timer.cancel()
        self._connections.forget(self._transport)


class CloseDeadline:
    """Ends a closing websocket whose peer does not close the connection.

    Every `CLOSE_TIMEOUT` it ends our side, if nothing is unsent: the peer could read the close frame and did not answer. If the
    peer takes nothing for `stall_timeout`, it aborts the connection. Messages sent before the close frame may take long to read.
    A peer that is gone, to all appearances, does not get that time.
    """

    __slots__ = ("_client", "_is_peer_gone", "_loop", "_timer", "_transport")

    def __init__(
        self, client: Client, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, *, is_peer_gone: bool = False
    ) -> None:
        """Start the clock for `client`, whose connection is `transport`."""
        self._client = client
        self._transport = transport
        self._loop = loop
        self._is_peer_gone = is_peer_gone
        self._schedule(client.delivered, loop.time() + self._patience)

    def cancel(self) -> None:
        """Stop the clock."""
        self._timer.cancel()

    @property
    def _patience(self) -> float:
        """Seconds without progress that the peer is given."""
        return 0.0 if self._is_peer_gone else self._client.room.app.stall_timeout

    def _schedule(self, delivered: int, deadline: float) -> None:
        self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._check, delivered, deadline)

    def _check(self, delivered: int, deadline: float) -> None:
        client, now = self._client, self._loop.time()
        if client.delivered != delivered:
            deadline = now + self._patience
        elif now >= deadline:
            self._transport.abort()
            return
        if not client.unsent and not self._transport.is_closing():
            end_output(self._transport)  # the kernel still delivers what it has; `abort` would drop it
        self._schedule(client.delivered, deadline)
