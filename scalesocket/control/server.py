"""The server's end of the control socket. Its tasks, one per connection, are children of `open_control`."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import anyio
import msgspec
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup

from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.config.units import KiB
from scalesocket.control.address import ControlError, ControlTakenError, control_paths
from scalesocket.control.binding import Binding, bind_control
from scalesocket.control.messages import MAX_LINE, Answer, Caller, Request, wait_of
from scalesocket.errors import ScalesocketError

log = structlog.get_logger()

MAX_REQUEST: Final = 64 * KiB
"""Bytes of the longest request; a longer one is answered with an error."""
MAX_CONNECTIONS: Final = 8
"""Connections served at once; others wait in the kernel's queue."""
REQUEST_TIMEOUT: Final = 5.0
"""Seconds for the client to send its request, and again to read the answer."""
ANSWER_TIMEOUT: Final = 60.0
"""Seconds to carry out a request, besides those for which it waits for the end of rooms."""
ACCEPT_RETRY: Final = 1.0
"""Seconds until the next accept after one that failed."""


class Stream(Protocol):
    """An answer that goes on."""

    @property
    def answer(self) -> Answer:
        """What is sent first."""

    async def read(self) -> bytes | None:
        """Wait for more lines and return them; None at the end."""

    def close(self) -> None:
        """Stop: the client has closed the connection, or the end is reached."""


Respond = Callable[[Request, Caller], Awaitable[Answer | Stream]]
"""Carries out a request of a caller. Errors of the package that it raises become answers."""


class ControlServer:
    """A control socket that can move to another path. Made by `open_control`."""

    def __init__(self, respond: Respond, tasks: TaskGroup) -> None:
        """Answer requests with `respond`, in one task of `tasks` per connection."""
        self._respond = respond
        self._tasks = tasks
        self._binding: Binding | None = None
        self._accepting = anyio.CancelScope()

    async def prepare(self, site: Site, plan: Plan) -> "Move":
        """Bind the socket of an edited site beside the old one, if its path changed. It accepts nothing before the commit.

        Runs in a thread, because binding may wait for a lock and for another server. Raises ControlError when the new path
        cannot be used.
        """
        if not any(change.key == "control" for change in plan.server):
            return Move(self, self._binding)
        return Move(self, await to_thread.run_sync(bind_control, control_paths(site.server.control, site.path)))

    def use(self, binding: Binding | None) -> None:
        """Accept at `binding` from now on (None: nowhere), and release the old one."""
        if binding is self._binding:
            return
        self._accepting.cancel()
        if self._binding is not None:
            self.release(self._binding)
        self._binding = binding
        if binding is not None:
            binding.listen()
            self._accepting = anyio.CancelScope()
            self._tasks.start_soon(self._accept, binding.listener, self._accepting, name="control socket")

    def release(self, binding: Binding) -> None:
        """Close a binding in a task of its own, because that may wait for a lock."""
        self._tasks.start_soon(_close, binding, name="old control socket")

    def close(self) -> None:
        """Accept no more, and remove the files. Requests in progress go on."""
        self._accepting.cancel()
        if self._binding is not None:
            self._binding.close()
            self._binding = None

    async def _accept(self, listener: socket.socket, scope: anyio.CancelScope) -> None:
        with scope:
            await _accept(listener, self._respond, self._tasks)


@dataclass(frozen=True, slots=True)
class Move:
    """A control socket prepared for an edited site."""

    server: ControlServer
    binding: Binding | None

    def commit(self) -> None:
        """Move there."""
        self.server.use(self.binding)

    def roll_back(self) -> None:
        """Stay at the old path."""
        if self.binding is not None and self.binding is not self.server._binding:
            self.server.release(self.binding)


@asynccontextmanager
async def open_control(paths: Sequence[Path], respond: Respond, *, is_needed: bool = True) -> AsyncIterator[ControlServer]:
    """Listen at the first of `paths` (the others in its folder become links to it) and answer with `respond`.

    Without paths nothing is opened. The files are removed at the end. Raises ControlTakenError when a live server answers
    there, and ControlError when the path cannot be used; the latter is only a warning if the socket is not needed.
    """
    binding = None
    try:
        binding = bind_control(paths)
    except ControlTakenError:
        raise
    except ControlError as error:
        if is_needed:
            raise
        log.warning("control socket not opened", error=str(error))
    async with anyio.create_task_group() as tasks:
        server = ControlServer(respond, tasks)
        server.use(binding)
        try:
            yield server
        finally:
            server.close()
            tasks.cancel_scope.cancel()


async def _accept(listener: socket.socket, respond: Respond, tasks: TaskGroup) -> None:
    loop = asyncio.get_running_loop()
    slots = anyio.Semaphore(MAX_CONNECTIONS)
    while True:
        await slots.acquire()
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:  # no free descriptor: that passes, and must not end the server
            slots.release()
            log.warning("control connection not accepted", error=str(error))
            await anyio.sleep(ACCEPT_RETRY)
        else:
            tasks.start_soon(_serve_connection, connection, respond, slots, name="control connection")


async def _serve_connection(connection: socket.socket, respond: Respond, slots: anyio.Semaphore) -> None:
    """Read one request, answer it and close the connection.

    A stream leaves its slot to other connections, and so does a request that waits for the end of rooms.
    """
    with ExitStack() as slot:
        slot.callback(slots.release)
        await _serve_request(connection, respond, slot)


async def _serve_request(connection: socket.socket, respond: Respond, slot: ExitStack) -> None:
    try:
        caller = _identify(connection)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_REQUEST)
        try:
            answer = await _answer(reader, respond, caller, slot)
            if isinstance(answer, Answer):
                await _send(writer, _encode(answer))
            else:
                slot.close()
                await _send_stream(answer, reader, writer)
            with anyio.fail_after(REQUEST_TIMEOUT):
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
    except (OSError, TimeoutError) as error:
        log.debug("control connection lost", error=str(error))


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    with anyio.fail_after(REQUEST_TIMEOUT):
        await _write(writer, line)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send something to the client. Raises OSError if the connection has ended."""
    if writer.transport.is_closing():  # then uvloop's `write` raises RuntimeError
        raise ConnectionResetError("the connection has ended")
    writer.write(data)
    await writer.drain()


async def _send_stream(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a stream until its end, or until the client closes its side. A client that does not read is waited for."""
    try:
        await _send(writer, _encode(stream.answer))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_at_end, reader, tasks.cancel_scope, name="control stream")
            try:
                while (lines := await stream.read()) is not None:
                    await _write(writer, lines)
                    await asyncio.sleep(0)  # neither of the others waits while there is much to send
            except OSError as error:
                log.debug("control connection lost", error=str(error))
            except Exception:
                log.exception("control stream failed")
            tasks.cancel_scope.cancel()
    finally:
        stream.close()


async def _cancel_at_end(reader: asyncio.StreamReader, scope: anyio.CancelScope) -> None:
    with suppress(OSError):
        await reader.read(1)
    scope.cancel()


async def _answer(reader: asyncio.StreamReader, respond: Respond, caller: Caller, slot: ExitStack) -> Answer | Stream:
    """Read one request and carry it out. Errors are answers, because the client waits for one."""
    try:
        with anyio.fail_after(REQUEST_TIMEOUT):
            line = await reader.readuntil(b"\n")
        request = msgspec.json.decode(line, type=Request)
    except asyncio.LimitOverrunError:
        return Answer(error=f"the request is longer than {MAX_REQUEST // KiB} KiB")
    except (asyncio.IncompleteReadError, TimeoutError, msgspec.DecodeError) as error:
        return Answer(error=f"not a request: {error}")
    wait = wait_of(request)
    if wait is None:
        return await _carry_out(request, respond, caller, ANSWER_TIMEOUT)
    slot.close()
    answer: Answer | Stream = Answer(error="the client closed the connection")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_at_end, reader, tasks.cancel_scope, name="control wait")
        answer = await _carry_out(request, respond, caller, ANSWER_TIMEOUT + wait)
        tasks.cancel_scope.cancel()
    return answer


async def _carry_out(request: Request, respond: Respond, caller: Caller, timeout: float) -> Answer | Stream:
    try:
        with anyio.fail_after(timeout):
            return await respond(request, caller)
    except TimeoutError:
        return Answer(error=f"not done within {timeout:.0f} s")
    except ScalesocketError as error:
        return Answer(error=str(error))
    except Exception as error:
        log.exception("control request failed")
        return Answer(error=f"internal error of the server: {type(error).__name__} (its log has the traceback)")


def _identify(connection: socket.socket) -> Caller:
    """Return who is at the other end, as the kernel knows it."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return Caller(via="control socket", name=f"uid {uid}, pid {pid}")


def _encode(answer: Answer) -> bytes:
    line = msgspec.json.encode(answer) + b"\n"
    if len(line) > MAX_LINE:
        line = msgspec.json.encode(Answer(error="the answer is too long (ask for one app, or for one room)")) + b"\n"
    return line


async def _close(binding: Binding) -> None:
    """Close a binding, even if the server stops meanwhile."""
    with anyio.CancelScope(shield=True):
        await to_thread.run_sync(binding.close)
