"""A connection to a backend: a target, or a process on a port."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import anyio

from scalesocket.backends.backend import Exit, Receiver
from scalesocket.backends.ports import LOOPBACK
from scalesocket.backends.process import is_over
from scalesocket.errors import BackendError
from scalesocket.io.pipes import HIGH_WATER, LOW_WATER, count_unread
from scalesocket.io.poller import Poller

FIRST_PAUSE: Final = 0.005
"""Seconds between the first two attempts to connect. Each pause is 1.5 times as long as the one before."""
LONGEST_PAUSE: Final = 0.1
TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # linux/tcp.h; Python has no name for it before 3.12
MAX_KERNEL_UNSENT: Final = 64 * 1024
"""Bytes that the kernel buffers without sending them. `unsent` counts all others, so it shows a peer that reads slowly."""


class Connection(asyncio.Protocol):
    """A connection whose peer is a backend. Reads nothing until `resume`."""

    def __init__(self, receiver: Receiver, poller: Poller) -> None:
        self._receiver = receiver
        self._poller = poller
        self._transport: asyncio.Transport | None = None
        self._is_blocked = False
        self._is_paused = True
        self._early = b""
        """Bytes read before the first `resume`."""
        self.taken = 0
        """Bytes that the receiver got."""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        """Done when the connection has ended and the receiver got all output. Never cancel it: use `wait_exit`."""
        self._is_closed = asyncio.Event()
        self._stop_guarding: Callable[[], None] | None = None

    @property
    def exit(self) -> Exit | None:
        """How the connection ended; None while it is open."""
        return self.ended.result() if self.ended.done() else None

    async def wait_exit(self) -> Exit:
        """Wait until it has ended."""
        return await asyncio.shield(self.ended)

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        assert self._transport is not None
        return self._transport.get_write_buffer_size() if self.exit is None else 0

    @property
    def unread(self) -> int:
        """Bytes that were received and that the receiver did not get yet."""
        connected = self._transport.get_extra_info("socket") if self._transport is not None else None
        return len(self._early) + (count_unread(connected.fileno()) if connected is not None else 0)

    def be_guarded(self, guard: Callable[[int], Callable[[], None]]) -> None:
        """Have `guard` shut down the socket at a deadline, until it is closed."""
        connected = None if self._transport is None or self.exit is not None else self._transport.get_extra_info("socket")
        if connected is not None and connected.fileno() >= 0:
            self._stop_guarding = guard(connected.fileno())

    def write(self, records: bytes) -> bool:
        """Queue input; False if the connection has ended."""
        assert self._transport is not None
        if self.ended.done() or self._transport.is_closing():
            return False
        self._transport.write(records)
        return True

    def pause(self) -> None:
        """Stop reading. Calls may repeat."""
        assert self._transport is not None
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Start reading, or continue. Calls may repeat."""
        assert self._transport is not None
        if self._is_paused:
            self._is_paused = False
            if self._early:
                self._loop.call_soon(self._deliver_early)
            else:
                self._transport.resume_reading()

    def end_input(self) -> None:
        """Shut down the sending direction after what is queued. Calls may repeat."""
        if self._transport is not None and self.exit is None and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # asyncio's event loop raises it if the peer has reset the connection
                self._transport.write_eof()

    async def finish(self, timeout: float) -> Exit:
        """Close, after at most `timeout` seconds for the rest of the output unless reading is paused."""
        try:
            if not self._is_paused:
                await is_over(self.wait_exit(), timeout)
        finally:
            self.abort()
        if self._transport is not None:
            await self._is_closed.wait()
        return self.ended.result()

    def abort(self) -> None:
        """Close at once; what is queued is discarded. Calls may repeat."""
        self._end(None)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._transport.pause_reading()
        connected = self._transport.get_extra_info("socket")
        if sys.platform == "linux" and connected.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # a kernel without it buffers more
                connected.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, MAX_KERNEL_UNSENT)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._is_paused:  # uvloop reads once, whatever `connection_made` asked for
            self._early += data
            assert self._transport is not None
            self._transport.pause_reading()
        elif self.exit is None:
            self.taken += len(data)
            self._poller.begin_iteration()
            self._receiver.backend_output(data)

    def eof_received(self) -> None:
        """Called by the event loop: close the connection, as the end of the output ends the room."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._stop_guarding is not None:
            self._stop_guarding()
        self._end(exc)
        self._is_closed.set()

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self._is_blocked = True
        self._receiver.backend_blocked()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        if self._is_blocked:
            self._is_blocked = False
            self._receiver.backend_unblocked()

    def _deliver_early(self) -> None:
        if self._is_paused:
            return
        assert self._transport is not None
        early, self._early = self._early, b""
        if early:
            self.taken += len(early)
            self._receiver.backend_output(early)
        if not self._is_paused:
            self._transport.resume_reading()

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(Exit(error=None if error is None else describe(error)))
            self.resume_writing()


async def connect_tcp(host: str, port: int, receiver: Receiver, poller: Poller) -> Connection:
    """Connect to a target; raises OSError."""
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(receiver, poller), host, port)
    return connection


async def connect_unix(path: Path, receiver: Receiver, poller: Poller) -> Connection:
    """Connect to a target's unix socket, as soon as its backlog has a free place; raises OSError."""
    pause = FIRST_PAUSE
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.setblocking(False)
        while True:
            try:
                connected.connect(str(path))  # never waits: a full backlog is EAGAIN, which asyncio mistakes for success
            except BlockingIOError:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
            else:
                break
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: Connection(receiver, poller), sock=connected)
    except BaseException:
        connected.close()
        raise
    return connection


async def try_connect(port: int, timeout: float) -> socket.socket | None:
    """Connect to a port of this machine; None if no process listens there or accepts within `timeout` seconds.

    Raises BackendError if no descriptor is left.
    """
    try:
        connected = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only with it
    except OSError as error:
        raise BackendError(describe(error)) from error
    try:
        connected.setblocking(False)
        with anyio.fail_after(timeout):
            await asyncio.get_running_loop().sock_connect(connected, (LOOPBACK, port))
        if connected.getsockname() != connected.getpeername():
            return connected
    except (OSError, TimeoutError):
        connected.close()
        return None
    except BaseException:
        connected.close()
        raise
    connected.close()  # the kernel chose the same port for both ends, and TCP connects such a socket to itself (RFC 9293 3.5)
    return None


def describe(error: Exception) -> str:
    """The short text of a connection's error."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__
