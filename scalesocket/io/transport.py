"""A connection without TLS, as asyncio's transports are used, read and written when the `Poller` calls."""

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Final

from scalesocket.config.units import KiB
from scalesocket.io.outgoing import Outgoing
from scalesocket.io.poller import Poller

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

    A peer that takes nothing any more is still read, up to its end: what it said before it went is not lost.
    """

    __slots__ = (
        "_fd",
        "_gathers",
        "_has_ended",
        "_has_write_ended",
        "_high_water",
        "_is_closing",
        "_is_deaf",
        "_is_lost",
        "_is_pausing",
        "_is_reading",
        "_is_scheduled",
        "_is_watched",
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
        """The last turn in which something was written at once."""
        self._outgoing: Outgoing | None = None
        """What waits; None when nothing does."""
        self._high_water = HIGH_WATER
        self._low_water = HIGH_WATER // 4
        self._may_send = True
        """Whether a write may go to the kernel: nothing waits, and there is somebody to send to."""
        self._gathers = False
        self._is_scheduled = False
        """What waits is sent at the end of the turn."""
        self._is_watched = False
        """What waits is sent when the kernel takes more."""
        self._is_pausing = False
        """The protocol was told to pause writing."""
        self._is_reading = True
        self._has_ended = False
        """The peer says nothing more."""
        self._has_write_ended = False
        self._is_deaf = False
        """The peer takes nothing more."""
        self._is_closing = False
        self._is_lost = False
        """The end was announced, or will be in the next turn."""
        try:
            protocol.connection_made(self)
        except BaseException:
            self.abort()
            raise
        if self.is_reading():
            poller.add_reader(fd, self._read)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername`, and while it is open `socket` and `sockname`."""
        if name == "peername":
            return self._peer
        if self._fd >= 0 and name == "socket":
            return self._open_socket()
        if self._fd >= 0 and name == "sockname":
            return self._open_socket().getsockname()
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Speak to another protocol from now on."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        """The protocol that is spoken to."""
        return self._protocol

    def _open_socket(self) -> socket.socket:
        """The socket, for its options: made when it is first asked for, as few are, and each would take 3 us of a handshake."""
        if self._socket is None:
            self._socket = socket.socket(fileno=self._fd)
        return self._socket

    # --- Reading

    def is_reading(self) -> bool:
        """Whether the protocol gets what comes."""
        return self._is_reading and not self._is_closing and not self._has_ended

    def pause_reading(self) -> None:
        """Read no more. Calls may repeat."""
        if self.is_reading():
            self._poller.remove_reader(self._fd)
        self._is_reading = False

    def resume_reading(self) -> None:
        """Read again. Calls may repeat."""
        self._is_reading = True
        if self.is_reading():
            self._poller.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:  # it was reset
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
            self.abort()  # nobody knows where a protocol that failed stands
            raise

    # --- Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, or have it wait; nothing once the connection is closing or the peer is gone."""
        if self._may_send and self._turn != self._poller.turn:  # nearly always
            self._turn = self._poller.turn
            try:
                taken = os.write(self._fd, data)
            except BlockingIOError:
                taken = 0
            except OSError as error:
                self._stop_writing(error)
                return
            if taken == len(data):
                return
            self._watch()
            rest = data if type(data) is bytes else bytes(data)
            self._keep(memoryview(rest)[taken:] if taken else rest)  # not a copy for each client of a fan-out
        elif not data or self._is_closing or self._is_deaf:
            return
        elif self._has_write_ended:
            raise RuntimeError("write after write_eof")
        else:
            self._may_send = False
            if not self._is_watched and not self._is_scheduled:
                self._is_scheduled = True
                self._loop.call_soon(self._flush)
            self._keep(data if type(data) is bytes else bytes(data))

    def gather_writes(self) -> None:
        """Have the first write of a turn wait for the others: for a protocol that writes in pieces what is best sent as one."""
        self._gathers = True
        self._may_send = False

    def can_write_eof(self) -> bool:
        """It always can."""
        return True

    def write_eof(self) -> None:
        """End our side, after all that waits."""
        if self._is_closing or self._is_deaf or self._has_write_ended:
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
        self._pause_protocol()

    def _keep(self, piece: bytes | memoryview) -> None:
        """Have `piece` wait. How it goes on is settled already: the protocol may do anything when it is told to pause."""
        if self._outgoing is None:
            self._outgoing = Outgoing()
        self._outgoing.append(piece)
        self._pause_protocol()

    def _pause_protocol(self) -> None:
        """Tell the protocol to pause, if it must. That it fails is not for who writes: others may wait for their messages."""
        if self._is_pausing or self.get_write_buffer_size() <= self._high_water:
            return
        self._is_pausing = True
        try:
            self._protocol.pause_writing()
        except Exception as error:
            self._loop.call_exception_handler({"message": "error in pause_writing", "exception": error, "transport": self})

    def _watch(self) -> None:
        """Be called when the kernel takes more."""
        self._may_send = False
        if not self._is_watched:
            self._is_watched = True
            self._poller.add_writer(self._fd, self._flush)

    def _flush(self) -> None:
        """Send what waits, as far as the kernel takes it."""
        self._is_scheduled = False
        outgoing = self._outgoing
        if outgoing is None:
            return
        try:
            outgoing.write(self._fd)
        except OSError as error:
            self._stop_writing(error)
            return
        if outgoing.size:
            self._watch()
        else:
            self._all_sent()
        if self._is_pausing and outgoing.size <= self._low_water:
            self._is_pausing = False
            self._protocol.resume_writing()

    def _all_sent(self) -> None:
        """Nothing waits any more."""
        self._forget_unsent()
        if self._is_closing:
            self._end(None)
        elif self._has_write_ended:
            self._shut_down()
        else:
            self._may_send = not self._gathers

    def _forget_unsent(self) -> None:
        self._outgoing = None
        if self._is_watched:
            self._is_watched = False
            self._poller.remove_writer(self._fd)

    def _shut_down(self) -> None:
        with suppress(OSError):  # the peer is gone, which is seen by reading
            self._open_socket().shutdown(socket.SHUT_WR)

    def _stop_writing(self, error: OSError) -> None:
        """The peer takes nothing more. What it has said is still to be read, which comes to the end of it."""
        if not self.is_reading():
            self._end(error)
            return
        self._is_deaf = True
        self._may_send = False
        self._forget_unsent()

    # --- The end

    def is_closing(self) -> bool:
        """Whether it was closed or lost."""
        return self._is_closing

    def close(self) -> None:
        """Close the connection after all that waits. Calls may repeat."""
        if self._is_closing:
            return
        self._stop_reading()
        if self._outgoing is None:
            self._end(None)

    def abort(self) -> None:
        """Close the connection at once; what waits is lost. Calls may repeat."""
        self._end(None)

    def _stop_reading(self) -> None:
        self._is_closing = True
        self._may_send = False
        self._poller.remove_reader(self._fd)

    def _end(self, error: OSError | None) -> None:
        """Send and read nothing more, and tell the protocol in the next turn."""
        if self._is_lost:
            return
        self._is_lost = True
        self._stop_reading()
        self._forget_unsent()
        self._loop.call_soon(self._announce_end, error)

    def _announce_end(self, error: OSError | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._socket is not None:
                self._socket.close()
            else:
                os.close(self._fd)
            self._fd = -1  # the number may be another's from now on
            self._protocol = _NOBODY  # who knows this transport: no cycle is left
