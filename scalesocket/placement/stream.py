"""A stream to the process that has a client's room."""

import asyncio
import socket
from contextlib import suppress
from typing import Final, NamedTuple

from scalesocket.io.poller import Poller
from scalesocket.io.transport import SocketTransport

_NO_PROTOCOL: Final = asyncio.Protocol()


class InnerTransport(SocketTransport):
    """Our end of a stream to an owner.

    When the owner takes nothing more, what it has sent is still read, even if reading is paused.
    """

    __slots__ = ("_moved_to",)

    def __init__(self, sock: socket.socket, protocol: asyncio.Protocol, *, poller: Poller) -> None:
        """Take over a non-blocking socket, which may still be connecting. The address of its peer is not known."""
        self._moved_to: socket.socket | None = None
        super().__init__(sock.fileno(), None, protocol, poller=poller, is_blocking=False)
        self._socket = sock

    def to_socket(self) -> socket.socket:
        """Return the socket, without the transport."""
        self._moved_to = sock = socket.socket(fileno=self.detach())
        return sock

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, also without the transport."""
        return not self.is_closing() if self._moved_to is None else self._moved_to.fileno() >= 0

    def cut(self) -> None:
        """End the connection at once, also without the transport."""
        if self._moved_to is None:
            self.abort()
            return
        with suppress(OSError):  # it is not connected any more
            self._moved_to.shutdown(socket.SHUT_RDWR)

    def _write_failed(self, error: OSError) -> None:
        if self._has_ended or self._is_closing:
            super()._write_failed(error)
        else:
            self._is_broken = True
            self._clear_queue()


class Stream(NamedTuple):
    """A stream that an owner has accepted, for the bytes of a client."""

    transport: InnerTransport
    """Its reading may be paused."""
    early: bytes
    """What was read from it already."""

    def to_socket(self) -> socket.socket:
        """Return the socket, without a transport."""
        return self.transport.to_socket()

    def close(self) -> None:
        """Abort the connection. Calls may repeat."""
        self.transport.abort()


def open_stream(sock: socket.socket, *, poller: Poller) -> Stream:
    """Put a transport on our end of a socket pair, and take it over."""
    sock.setblocking(False)
    transport = InnerTransport(sock, _NO_PROTOCOL, poller=poller)
    transport.pause_reading()
    return Stream(transport, b"")
