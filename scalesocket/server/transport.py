"""A connection without TLS, as asyncio's transports are used, read and written when the `Poller` calls."""

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Final

from scalesocket.config.units import KiB
from scalesocket.outgoing import Outgoing
from scalesocket.poller import Poller

READ_SIZE: Final = 64 * KiB
"""Bytes of one read; a connection is read once in a turn of the loop."""
HIGH_WATER: Final = 64 * KiB
"""Unsent bytes after which the protocol is told to pause, until it sets its own limits; asyncio's default."""

_NOBODY: Final = asyncio.Protocol()


class SocketTransport(asyncio.Transport):
    """One connected stream socket, TCP or unix.

    In place of the loop's own, because of what those cost: docs/performance.md has the figures. The first write in a turn
    of the loop goes out at once, the others of that turn together in its end. What the kernel does not take waits
    here, without a bound but what the protocol does when it is told to pause.
    """

    __slots__ = (
        "_fd",
        "_has_ended",
        "_has_write_ended",
        "_high_water",
        "_is_closing",
        "_is_lost",
        "_is_pausing",
        "_is_reading",
        "_is_waiting",
        "_loop",
        "_low_water",
        "_may_send",
        "_outgoing",
        "_peer",
        "_poller",
        "_protocol",
        "_socket",
        "_turn",
    )

    def __init__(
        self, fd: int, peer: object, protocol: asyncio.Protocol, *, poller: Poller, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Take over the descriptor of a socket, and read from it for `protocol` from now on. `peer`: its other end."""
        # Not asyncio's own __init__, which would make a dict for each connection.
        os.set_blocking(fd, False)
        self._fd = fd
        self._socket: socket.socket | None = None
        self._peer = peer
        self._protocol = protocol
        self._poller = poller
        self._loop = loop
        self._turn = -1
        """The last turn in which something was written."""
        self._outgoing: Outgoing | None = None
        self._high_water = HIGH_WATER
        self._low_water = HIGH_WATER // 4
        self._may_send = True
        """Whether nothing waits, and there is somebody to send to: a write may go to the kernel."""
        self._is_waiting = False
        """The kernel takes no more for now, and the socket is watched."""
        self._is_pausing = False
        """The protocol was told to pause writing."""
        self._is_reading = True
        self._has_ended = False
        """The peer says nothing more."""
        self._has_write_ended = False
        self._is_closing = False
        self._is_lost = False
        """The end was announced, or will be in the next turn."""
        protocol.connection_made(self)
        if not self._is_closing and self._is_reading:
            poller.add_reader(self._fd, self._read)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`, `peername` or `sockname`."""
        match name:
            case "socket":
                return self.socket
            case "peername":
                return self._peer
            case "sockname":
                return self.socket.getsockname()
        return default

    @property
    def socket(self) -> socket.socket:
        """The socket, for its options: made when it is first asked for, because few are, and a handshake is 3 us shorter."""
        sock = self._socket
        if sock is None:
            sock = self._socket = socket.socket(fileno=self._fd)
        return sock

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Speak to another protocol from now on."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        """The protocol that is spoken to."""
        return self._protocol

    # --- Reading

    def is_reading(self) -> bool:
        """Whether the protocol gets what comes."""
        return self._is_reading and not self._is_closing and not self._has_ended

    def pause_reading(self) -> None:
        """Read no more. Calls may repeat."""
        if self._is_reading:
            self._is_reading = False
            self._poller.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Read again. Calls may repeat."""
        if not self._is_reading:
            self._is_reading = True
            if not self._is_closing and not self._has_ended:
                self._poller.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:  # it was reset
            self._lose(error)
            return
        try:
            if chunk:
                self._protocol.data_received(chunk)
            else:
                self._read_end()
        except BaseException:
            self.abort()  # nobody knows where a protocol that failed stands
            raise

    def _read_end(self) -> None:
        self._has_ended = True
        self._poller.remove_reader(self._fd)
        if not self._protocol.eof_received():
            self.close()

    # --- Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, or have it wait; nothing once the connection is closing."""
        if self._may_send and self._turn != self._poller.turn:  # nearly always
            self._turn = self._poller.turn
            try:
                taken = os.write(self._fd, data)
            except BlockingIOError:
                taken = 0
            except OSError as error:
                self._lose(error)
                return
            if taken == len(data):
                return
            self._keep(bytes(data)[taken:] if taken else data)
            self._wait()
        elif not data or self._is_closing:
            return
        elif self._has_write_ended:
            raise RuntimeError("write after write_eof")
        else:
            self._keep(data)
            if self._may_send:
                self._may_send = False
                self._loop.call_soon(self._flush)

    def can_write_eof(self) -> bool:
        """It always can."""
        return True

    def write_eof(self) -> None:
        """End our side, after all that waits."""
        if self._is_closing or self._has_write_ended:
            return
        self._has_write_ended = True
        self._may_send = False
        if self._outgoing is None:
            self._shut_down()

    def get_write_buffer_size(self) -> int:
        """Bytes the kernel has not taken yet."""
        return self._outgoing.size if self._outgoing is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high water, in bytes."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Tell the protocol to pause above `high` unsent bytes, and to go on at `low`, which is a quarter of that by default."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        self._high_water = high
        self._low_water = high // 4 if low is None else low

    def _keep(self, data: bytes | bytearray | memoryview) -> None:
        """Have `data` wait."""
        outgoing = self._outgoing
        if outgoing is None:
            outgoing = self._outgoing = Outgoing()
        outgoing.append(data if type(data) is bytes else bytes(data))
        if outgoing.size > self._high_water and not self._is_pausing:
            self._is_pausing = True
            self._protocol.pause_writing()

    def _wait(self) -> None:
        """Be called when the kernel takes more."""
        self._may_send = False
        if not self._is_waiting and not self._is_lost:
            self._is_waiting = True
            self._poller.add_writer(self._fd, self._flush)

    def _flush(self) -> None:
        """Send what waits, as far as the kernel takes it."""
        outgoing = self._outgoing
        if outgoing is None or self._is_lost:
            return
        try:
            outgoing.write(self._fd)
        except OSError as error:
            self._lose(error)
            return
        if outgoing.size:
            self._wait()
        else:
            self._sent()
        if self._is_pausing and outgoing.size <= self._low_water:
            self._is_pausing = False
            self._protocol.resume_writing()

    def _sent(self) -> None:
        """Nothing waits any more."""
        self._outgoing = None
        if self._is_waiting:
            self._is_waiting = False
            self._poller.remove_writer(self._fd)
        self._may_send = not self._is_closing and not self._has_write_ended
        if self._is_closing:
            self._lose(None)
        elif self._has_write_ended:
            self._shut_down()

    def _shut_down(self) -> None:
        with suppress(OSError):  # the peer is gone, which is seen by reading
            self.socket.shutdown(socket.SHUT_WR)

    # --- The end

    def is_closing(self) -> bool:
        """Whether it was closed or lost."""
        return self._is_closing

    def close(self) -> None:
        """Close the connection after all that waits. Calls may repeat."""
        if self._is_closing:
            return
        self._close()
        if self._outgoing is None:
            self._lose(None)

    def abort(self) -> None:
        """Close the connection at once; what waits is lost. Calls may repeat."""
        self._lose(None)

    def _close(self) -> None:
        self._is_closing = True
        self._may_send = False
        self._poller.remove_reader(self._fd)

    def _lose(self, error: OSError | None) -> None:
        """Send and read nothing more, and tell the protocol in the next turn."""
        if self._is_lost:
            return
        self._is_lost = True
        self._close()
        self._outgoing = None
        self._poller.remove_writer(self._fd)
        self._loop.call_soon(self._tell, error)

    def _tell(self, error: OSError | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._socket is not None:
                self._socket.close()
            else:
                os.close(self._fd)
            self._protocol = _NOBODY  # who knows this transport: no cycle is left
