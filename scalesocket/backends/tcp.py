"""Backends that are a connection: to a target that is there anyway, or to a process that was started and told its port."""

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Final, cast

import anyio

from scalesocket.backends.backend import Exit, Receiver
from scalesocket.backends.child import Child
from scalesocket.backends.pipes import HIGH_WATER, LOW_WATER, InputPipe, OutputPipe
from scalesocket.backends.ports import LOOPBACK, Ports
from scalesocket.backends.process import GRACE, LineLog, Process, is_over
from scalesocket.errors import BackendError

FIRST_PAUSE: Final = 0.005
"""Seconds between the first two attempts to connect to a process; each pause is half as long again as the last."""
LONGEST_PAUSE: Final = 0.1
TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # linux/tcp.h; Python has no name for it before 3.12
MAX_UNSEEN: Final = 64 * 1024
"""Bytes a kernel takes and does not send yet. All else waits where `unsent` counts it: a peer that reads slowly shows."""


class Connection(asyncio.Protocol):
    """A connection whose peer is a backend. Reads nothing until it is told to."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: asyncio.Transport | None = None
        self._is_blocked = False
        self._is_paused = True
        self._early = b""
        """What was read before anybody asked for it."""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        """Done when the connection has ended, and all output was given to the receiver. Not to be cancelled."""
        self._is_closed = asyncio.Event()

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it is open."""
        return self.ended.result() if self.ended.done() else None

    async def wait_exit(self) -> Exit:
        """Wait until it has ended."""
        return await asyncio.shield(self.ended)

    @property
    def unsent(self) -> int:
        """Bytes the peer has not taken."""
        assert self._transport is not None
        return self._transport.get_write_buffer_size() if self.exit is None else 0

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
        """Read, or read again. Calls may repeat."""
        assert self._transport is not None
        if self._is_paused:
            self._is_paused = False
            if self._early:
                self._loop.call_soon(self._give_early)
            else:
                self._transport.resume_reading()

    def end_input(self) -> None:
        """Tell the peer that no more input comes, after what was queued. Calls may repeat."""
        if self._transport is not None and self.exit is None and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # asyncio's own loop says so if the peer has reset the connection
                self._transport.write_eof()

    async def finish(self, timeout: float) -> Exit:
        """Wait at most `timeout` seconds for the rest of the output, unless reading is paused, and close."""
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
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._transport.pause_reading()
        connected = self._transport.get_extra_info("socket")
        if sys.platform == "linux" and connected.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # a kernel without it buffers more, and nothing else
                connected.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, MAX_UNSEEN)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._is_paused:  # uvloop reads once, whatever `connection_made` asked for
            self._early += data
            assert self._transport is not None
            self._transport.pause_reading()
        elif self.exit is None:
            self._receiver.backend_output(data)

    def eof_received(self) -> None:
        """Called by the loop: the peer writes no more, which ends the room, so the connection is closed."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._end(exc)
        self._is_closed.set()

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._is_blocked = True
        self._receiver.backend_blocked()

    def resume_writing(self) -> None:
        """Called by the loop."""
        if self._is_blocked:
            self._is_blocked = False
            self._receiver.backend_unblocked()

    def _give_early(self) -> None:
        if self._is_paused:
            return
        assert self._transport is not None
        early, self._early = self._early, b""
        if early:
            self._receiver.backend_output(early)
        if not self._is_paused:
            self._transport.resume_reading()

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(Exit(error=None if error is None else describe(error)))
            self.resume_writing()


class TargetBackend:
    """A connection to a target nobody here started."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        """Take the connection over and read from now on."""
        self._connection = connection
        connection.resume()

    @property
    def pid(self) -> None:
        """None: there is no process."""
        return

    @property
    def unsent(self) -> int:
        """Bytes of input the target has not taken yet."""
        return self._connection.unsent

    def write(self, records: bytes) -> bool:
        """Queue input."""
        return self._connection.write(records)

    def reclaim(self) -> list[bytes]:
        """Nothing: what a transport holds can't be had back."""
        return []

    def pause_reading(self) -> None:
        """Stop reading output, so that the target blocks."""
        self._connection.pause()

    def resume_reading(self) -> None:
        """Read output again."""
        self._connection.resume()

    async def wait_exit(self) -> Exit:
        """Wait until the target has closed the connection, or it broke."""
        return await self._connection.wait_exit()

    async def wait_drained(self) -> None:
        """Wait for the end of the output, which is the connection's."""
        await self._connection.wait_exit()

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """End input, give the target at most 500 ms for the rest of its output, and close. There is nothing to signal.

        Input that still waits has `timeout` seconds.
        """
        self._connection.end_input()
        return await self._connection.finish(timeout if self.unsent else min(GRACE, timeout))


class PortBackend:
    """A process that was told its port, and the connection to it. Its standard output goes to the log."""

    __slots__ = ("_connection", "_lines", "_port", "_ports", "_process")

    def __init__(self, child: Child, receiver: Receiver, port: int, ports: Ports, *, app: str, room: str) -> None:
        """Take over the child and the port that was taken for it. `connect` comes next, then all else; or `kill`."""
        self._lines = LineLog("stdout", app=app, room=room, pid=child.pid)
        stdin, stdout = InputPipe(child.stdin, receiver), OutputPipe(child.stdout, self._lines.feed, child.readers)
        self._process = Process(child, stdin, stdout, app=app, room=room)
        self._port = port
        self._ports = ports
        self._connection = Connection(receiver)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def exit(self) -> Exit | None:
        """How the process ended; None while it runs."""
        return self._process.ended.result() if self._process.ended.done() else None

    @property
    def unsent(self) -> int:
        """Bytes of input the process has not taken yet."""
        return self._connection.unsent

    async def connect(self, *, timeout: float, delay: float) -> None:
        """Connect as soon as the process listens, but not before `delay` seconds have passed.

        The first connection that comes about is it: one to see whether anybody listens would use up the only one that
        many a program accepts. Raises BackendError if the process ends before, or does not listen for `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(timeout, delay)
        pause = FIRST_PAUSE
        await is_over(self._process.wait_exit(), delay)
        while self.exit is None:
            if (connected := await try_connect(self._port, deadline - loop.time())) is not None:
                try:
                    await loop.create_connection(lambda: self._connection, sock=connected)
                except BaseException:
                    connected.close()
                    raise
                self._connection.resume()
                return
            if loop.time() + pause >= deadline:
                raise BackendError(f"it did not listen on port {self._port} within {timeout:g} s")
            await is_over(self._process.wait_exit(), pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
        raise BackendError(f"{self.exit} before it listened on port {self._port}")

    def write(self, records: bytes) -> bool:
        """Queue input."""
        return self._connection.write(records)

    def reclaim(self) -> list[bytes]:
        """Nothing: what a transport holds can't be had back."""
        return []

    def pause_reading(self) -> None:
        """Stop reading output, so that the process blocks."""
        self._connection.pause()

    def resume_reading(self) -> None:
        """Read output again."""
        self._connection.resume()

    async def wait_exit(self) -> Exit:
        """Wait until the process is gone, or has closed the connection and not ended within 500 ms."""
        exited, closed = self._process.ended, self._connection.ended
        await asyncio.wait((exited, closed), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((exited,), timeout=GRACE)
        return exited.result() if exited.done() else closed.result()

    async def wait_drained(self) -> None:
        """Wait for the end of the output, which is the connection's."""
        await self._connection.wait_exit()

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """End input, climb the stop ladder, deliver what the process had still sent, and give the port back."""
        try:
            self._connection.end_input()
            end = await self._process.stop(signal=signal, timeout=timeout, wait_drained=self.wait_drained)
            await self._connection.finish(GRACE)
        finally:
            self.kill()
        return end

    async def abandon(self) -> None:
        """Kill the process's group, and wait until it is gone, also when cancelled."""
        self.kill()
        with anyio.CancelScope(shield=True):
            await self._process.wait_gone()

    def kill(self) -> None:
        """Kill the process's group without waiting for it, close everything, and give the port back. Calls may repeat."""
        self._process.kill()
        self._lines.finish()
        self._connection.abort()
        if self._port:
            self._ports.give_back(self._port)
            self._port = 0


async def connect_tcp(host: str, port: int, receiver: Receiver) -> Connection:
    """Connect to a target; raises OSError."""
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(receiver), host, port)
    return connection


async def connect_unix(path: Path, receiver: Receiver) -> Connection:
    """Connect to a target's unix socket, as soon as its backlog has a place; raises OSError."""
    pause = FIRST_PAUSE
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.setblocking(False)
        while True:
            try:
                connected.connect(str(path))  # never waits: a full backlog is EAGAIN, which asyncio takes for success
            except BlockingIOError:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
            else:
                break
        _, connection = await asyncio.get_running_loop().create_unix_connection(lambda: Connection(receiver), sock=connected)
    except BaseException:
        connected.close()
        raise
    return connection


async def try_connect(port: int, timeout: float) -> socket.socket | None:
    """A connection to a port of this machine; None if nobody listens there, or nobody accepts within `timeout` seconds.

    Raises BackendError if no descriptor is left.
    """
    try:
        connected = socket.socket()
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
    connected.close()  # the kernel gave us the very port, and TCP connects such a socket to itself (RFC 9293 3.5)
    return None


def describe(error: Exception) -> str:
    """An error of a connection in a few words."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__
