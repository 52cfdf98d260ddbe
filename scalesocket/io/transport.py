"""An asyncio transport for connections without TLS, on the poller."""

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Final

from scalesocket.config.units import KiB
from scalesocket.io.poller import Poller
from scalesocket.io.writer import Writer

READ_SIZE: Final = 64 * KiB
"""Bytes of one read. A connection is read once in an event-loop iteration."""

_NO_PROTOCOL: Final = asyncio.Protocol()


class SocketTransport(Writer, asyncio.Transport):
    """One connected stream socket, TCP or unix.

    It replaces the event loop's own transport, which costs more (docs/performance.md). If the peer resets the connection, what it
    sent before is still read.
    """

    __slots__ = (
        "_has_ended",
        "_has_write_ended",
        "_is_broken",
        "_is_closing",
        "_is_lost",
        "_is_reading",
        "_peer",
        "_protocol",
        "_socket",
    )

    def __init__(self, fd: int, peer: object, protocol: asyncio.Protocol, *, poller: Poller, is_blocking: bool = True) -> None:
        """Take over the descriptor of a socket, and read from it for `protocol` from now on. `peer`: the address of its peer.

        `is_blocking`: whether it may be in blocking mode.
        """
        if is_blocking:
            os.set_blocking(fd, False)
        super().__init__(fd, poller=poller)
        self._peer = peer
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._is_reading = True
        """Whether reading is not paused."""
        self._has_ended = False
        """Whether the peer has ended its side."""
        self._has_write_ended = False
        """Whether we have ended our side."""
        self._is_broken = False
        """Whether the peer receives nothing more."""
        self._is_closing = False
        self._is_lost = False
        """Whether `connection_lost` was called, or will be in the next event-loop iteration."""
        try:
            protocol.connection_made(self)
        except BaseException:
            self.abort()
            raise
        if self.is_reading():
            poller.add_reader(fd, self._read)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `peername`, and `socket` and `sockname` while the connection is open."""
        if name == "peername":
            return self._peer
        if self._fd >= 0 and name == "socket":
            return self._open_socket()
        if self._fd >= 0 and name == "sockname":
            return self._open_socket().getsockname()
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        """Return the protocol."""
        return self._protocol

    def _open_socket(self) -> socket.socket:
        """Return the socket object. Made on demand, because few connections need it and it takes 3 us of a handshake."""
        if self._socket is None:
            self._socket = socket.socket(fileno=self._fd)
        return self._socket

    def fileno(self) -> int:
        """Return the descriptor; -1 after the end."""
        return self._fd

    def detach(self) -> int:
        """Stop watching the connection, and return its descriptor, which the caller owns from now on.

        For handing the connection over to another process. `connection_lost` is not called. Nothing may be unsent.
        """
        assert self._outgoing is None
        assert not self._is_lost
        self._is_lost = True
        self._stop_reading()
        if self._socket is not None:
            self._socket.detach()
        fd, self._fd = self._fd, -1
        self._protocol = _NO_PROTOCOL
        return fd

    # --- Reading

    def is_reading(self) -> bool:
        """Return whether input is read."""
        return self._is_reading and not self._is_closing and not self._has_ended

    def pause_reading(self) -> None:
        """Stop reading. Calls may repeat."""
        if self.is_reading():
            self._poller.remove_reader(self._fd)
        self._is_reading = False

    def resume_reading(self) -> None:
        """Resume reading. Calls may repeat."""
        self._is_reading = True
        if self.is_reading():
            self._poller.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:  # reset by the peer
            self._end(error)
            return
        try:
            if chunk:
                self._protocol.data_received(chunk)
            else:
                self._has_ended = True
                self._poller.remove_reader(self._fd)
                if not self._protocol.eof_received():
                    self.close()
        except BaseException:
            self.abort()  # the state of the protocol is unknown
            raise

    # --- Writing

    def can_write_eof(self) -> bool:
        """Return True: every stream socket can."""
        return True

    def write_eof(self) -> None:
        """End our side once everything queued is sent."""
        if self._is_closing or self._is_broken or self._has_write_ended:
            return
        self._has_write_ended = True
        self._end_writes()
        if self._outgoing is None:
            self._shut_down()

    def _pause(self) -> None:
        """A failure is reported but does not reach the writer, which may be a broadcast with other recipients."""
        try:
            self._protocol.pause_writing()
        except Exception as error:
            context = {"message": "error in pause_writing", "exception": error, "transport": self}
            self._poller.loop.call_exception_handler(context)

    def _resume(self) -> None:
        self._protocol.resume_writing()

    def _discard(self) -> bool:
        if self._has_write_ended and not self._is_closing and not self._is_broken:
            raise RuntimeError("write after write_eof")
        return False

    def _all_sent(self) -> None:
        if self._is_closing:
            self._end(None)
        elif self._has_write_ended:
            self._shut_down()

    def _shut_down(self) -> None:
        with suppress(OSError):  # a lost connection is noticed by reading
            self._open_socket().shutdown(socket.SHUT_WR)

    def _write_failed(self, error: OSError) -> None:
        """What the peer has sent is still read, up to its end."""
        if not self.is_reading():
            self._end(error)
            return
        self._is_broken = True
        self._clear_queue()

    # --- The end

    def is_closing(self) -> bool:
        """Return whether the connection was closed or lost."""
        return self._is_closing

    def close(self) -> None:
        """Close the connection once everything queued is sent. Calls may repeat."""
        if self._is_closing:
            return
        self._stop_reading()
        if self._outgoing is None:
            self._end(None)

    def abort(self) -> None:
        """Close the connection at once and discard what is queued. Calls may repeat."""
        self._end(None)

    def _stop_reading(self) -> None:
        self._is_closing = True
        self._end_writes()
        self._poller.remove_reader(self._fd)

    def _end(self, error: OSError | None) -> None:
        """Stop reading and writing, and call `connection_lost` in the next event-loop iteration."""
        if self._is_lost:
            return
        self._is_lost = True
        self._stop_reading()
        self._clear_queue()
        self._poller.loop.call_soon(self._announce_end, error)

    def _announce_end(self, error: OSError | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._socket is not None:
                self._socket.close()
            else:
                os.close(self._fd)
            self._fd = -1  # the kernel may reuse the number
            self._protocol = _NO_PROTOCOL  # the protocol refers to this transport: break the cycle
