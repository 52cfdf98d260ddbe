"""Backends that are a connection: to a target that runs independently, or to a started process that listens on a port."""

import asyncio

import anyio

from scalesocket.backends.backend import Exit, Receiver
from scalesocket.backends.child import Child
from scalesocket.backends.connection import FIRST_PAUSE, LONGEST_PAUSE, Connection, try_connect
from scalesocket.backends.line_log import LineLog
from scalesocket.backends.ports import Ports
from scalesocket.backends.process import GRACE, Process, is_over
from scalesocket.errors import BackendError
from scalesocket.io.pipes import PipeReader, PipeWriter


class ConnectionBackend:
    """What both have in common: input and output go through a connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        """Own the connection."""
        self._connection = connection

    @property
    def unsent(self) -> int:
        """Bytes of input that wait to be sent."""
        return self._connection.unsent

    @property
    def output(self) -> tuple[int, int]:
        """Bytes of output read so far, and those that can be read now."""
        return self._connection.taken, self._connection.unread

    def write(self, records: bytes) -> bool:
        """Queue input."""
        return self._connection.write(records)

    def reclaim(self) -> list[bytes]:
        """Return nothing: a transport does not return what it has queued."""
        return []

    def pause_reading(self) -> None:
        """Stop reading output, so that the other side blocks when it writes."""
        self._connection.pause()

    def resume_reading(self) -> None:
        """Read output again."""
        self._connection.resume()

    async def wait_drained(self) -> None:
        """Wait for the end of the output, which is the connection's."""
        await self._connection.wait_exit()


class TargetBackend(ConnectionBackend):
    """A connection to a target that the server did not start."""

    __slots__ = ()

    def __init__(self, connection: Connection) -> None:
        """Own the connection and read from now on."""
        super().__init__(connection)
        connection.resume()

    @property
    def pid(self) -> None:
        """None: there is no process."""
        return

    async def wait_exit(self) -> Exit:
        """Wait until the target has closed the connection, or it broke."""
        return await self._connection.wait_exit()

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """End the input, wait at most 500 ms for the rest of the output, or `timeout` seconds if input is unsent, and close.

        `signal` has no meaning for a target.
        """
        self._connection.end_input()
        return await self._connection.finish(timeout if self.unsent else min(GRACE, timeout))


class PortBackend(ConnectionBackend):
    """A process that listens on a port, and the connection to it. Its standard output goes to the log."""

    __slots__ = ("_lines", "_port", "_ports", "_process")

    def __init__(self, child: Child, receiver: Receiver, port: int, ports: Ports, *, app: str, room: str) -> None:
        """Own the child and its reserved port. The next call must be `connect` or `kill`."""
        super().__init__(Connection(receiver, child.poller))
        self._lines = LineLog("stdout", app=app, room=room, pid=child.pid)
        stdin = PipeWriter(
            child.stdin, poller=child.poller, on_blocked=receiver.backend_blocked, on_unblocked=receiver.backend_unblocked
        )
        stdout = PipeReader(child.stdout, poller=child.poller, on_chunk=self._lines.feed)
        self._process = Process(child, stdin, stdout, app=app, room=room)
        self._port = port
        self._ports = ports

    @property
    def pid(self) -> int:
        """The pid of the process."""
        return self._process.pid

    @property
    def exit(self) -> Exit | None:
        """How the process ended; None while it runs."""
        return self._process.ended.result() if self._process.ended.done() else None

    async def connect(self, *, timeout: float, delay: float) -> None:
        """Connect as soon as the process listens, but not before `delay` seconds have passed.

        There is no probe, as many programs accept a single connection. Raises BackendError if the process ends before, or
        does not listen within `timeout` seconds.
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

    async def wait_exit(self) -> Exit:
        """Wait until the process has ended, or has closed the connection and not ended within 500 ms."""
        exited, closed = self._process.ended, self._connection.ended
        await asyncio.wait((exited, closed), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((exited,), timeout=GRACE)
        return exited.result() if exited.done() else closed.result()

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        """Stop the process, deliver the rest of its output, and release the port; see `Backend.stop`."""
        try:
            self._connection.end_input()
            end = await self._process.stop(signal=signal, timeout=timeout, wait_drained=self.wait_drained)
            await self._connection.finish(GRACE)
        finally:
            self.kill()
        return end

    async def abandon(self) -> None:
        """Kill the process's group, and wait until it is reaped, also when cancelled."""
        self.kill()
        with anyio.CancelScope(shield=True):
            await self._process.wait_gone()

    def kill(self) -> None:
        """Kill the process's group without waiting, close everything, and release the port. Calls may repeat."""
        self._process.kill()
        self._lines.finish()
        self._connection.abort()
        if self._port:
            self._ports.release(self._port)
            self._port = 0
