"""The server's end of the control socket. Owns the socket file; its tasks, one per connection, are children of `open_control`."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup

from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.control.address import ControlError, ControlTakenError, control_paths, is_own_folder, make_private
from scalesocket.control.client import pid_behind
from scalesocket.control.messages import Answer, Request
from scalesocket.errors import ScalesocketError

log = structlog.get_logger()

MAX_REQUEST: Final = 64 * 1024
"""Bytes of the longest request; a longer one is answered with an error."""
MAX_CONNECTIONS: Final = 8
"""Connections served at once; more wait in the kernel's queue."""
LOCK_TIMEOUT: Final = 0.25
"""Seconds to wait for the lock on the socket's folder."""
LOCK_PAUSE: Final = 0.01
REQUEST_TIMEOUT: Final = 5.0
"""Seconds to send the request, and to take the answer."""
ANSWER_TIMEOUT: Final = 60.0
"""Seconds to do what was asked for."""

Respond = Callable[[Request], Awaitable[Answer]]


class ControlServer:
    """A control socket that can move. `async with open_control(…)` makes one."""

    def __init__(self, respond: Respond, tasks: TaskGroup) -> None:
        """Answer with `respond`, one connection a task in `tasks`."""
        self._respond = respond
        self._tasks = tasks
        self._binding: Binding | None = None
        self._accepting = anyio.CancelScope()

    async def prepare(self, site: Site, plan: Plan) -> "Move":
        """Open the socket of an edited site beside the old one, if its place changed; nobody is answered there before the commit.

        In a thread, because the lock of the folder and what answers in the place may be waited for. Raises ControlError when
        the new place cannot be used.
        """
        if not any(change.key == "control" for change in plan.server):
            return Move(self, self._binding)
        return Move(self, await to_thread.run_sync(bind_control, control_paths(site.server.control, site.path)))

    def use(self, binding: "Binding | None") -> None:
        """Answer at `binding` from now on (nowhere, for None), and let go of the old one."""
        if binding is self._binding:
            return
        self._accepting.cancel()
        if self._binding is not None:
            self.let_go(self._binding)
        self._binding = binding
        if binding is not None:
            binding.listen()
            self._accepting = anyio.CancelScope()
            self._tasks.start_soon(self._accept, binding.listener, self._accepting, name="control socket")

    def let_go(self, binding: "Binding") -> None:
        """Listen there no more, as soon as the folder of its files can be locked and they are gone."""
        self._tasks.start_soon(_close, binding, name="old control socket")

    def close(self) -> None:
        """Answer nobody any more, and remove the files. Requests being answered are not cut off."""
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
    binding: "Binding | None"

    def commit(self) -> None:
        """Answer there from now on."""
        self.server.use(self.binding)

    def take_back(self) -> None:
        """Stay where the server is."""
        if self.binding is not None and self.binding is not self.server._binding:
            self.server.let_go(self.binding)


@asynccontextmanager
async def open_control(paths: Sequence[Path], respond: Respond, *, is_needed: bool = True) -> AsyncIterator[ControlServer]:
    """Listen at the first of `paths` (the others in its folder become links to it) and answer with `respond`.

    With no paths nothing is opened. Raises ControlTakenError when a server that lives answers there, and ControlError
    when the place cannot be used; where the socket is not needed, that is a warning. The files are gone afterwards.
    """
    binding = None
    try:
        binding = bind_control(paths)
    except ControlTakenError:
        raise
    except ControlError as error:
        if is_needed:
            raise
        log.warning("no control socket", why=str(error))
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
    places = anyio.Semaphore(MAX_CONNECTIONS)
    while True:
        await places.acquire()
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:  # out of descriptors: that passes, and must not end the server
            places.release()
            log.warning("the control socket cannot accept", error=str(error))
            await anyio.sleep(1.0)
        else:
            tasks.start_soon(_converse, connection, respond, places, name="control connection")


async def _converse(connection: socket.socket, respond: Respond, places: anyio.Semaphore) -> None:
    try:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_REQUEST)
        try:
            answer = await _answer(reader, respond)
            with anyio.fail_after(REQUEST_TIMEOUT):
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
    except (OSError, TimeoutError):
        log.debug("a control connection was lost")
    finally:
        places.release()


async def _answer(reader: asyncio.StreamReader, respond: Respond) -> Answer:
    """Read one request and do it. What goes wrong is the answer: the asker waits for one."""
    try:
        with anyio.fail_after(REQUEST_TIMEOUT):
            line = await reader.readuntil(b"\n")
        request = msgspec.json.decode(line, type=Request)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, msgspec.DecodeError) as error:
        return Answer(error=f"not a request: {error}")
    try:
        with anyio.fail_after(ANSWER_TIMEOUT):
            return await respond(request)
    except TimeoutError:
        return Answer(error=f"not done within {ANSWER_TIMEOUT:.0f} s")
    except ScalesocketError as error:
        return Answer(error=str(error))
    except Exception as error:
        log.exception("a control request failed")
        return Answer(error=f"a fault of the server ({type(error).__name__}); its log says more")


@dataclass(frozen=True, slots=True)
class Binding:
    """A socket and the files that lead to it."""

    listener: socket.socket
    places: Sequence[Path]
    inode: int
    claim: ExitStack
    """The lock on the folder, until the socket listens: before that another server would take it for a stale one."""

    def listen(self) -> None:
        """Take connections from now on."""
        self.listener.listen()
        self.claim.close()

    def close(self) -> None:
        """Close the socket and remove its files, unless they are another's by now or the folder is locked: then they stay.

        Waits a little for the lock. The files first: the number of a file that is gone may be given to another socket.
        """
        self.claim.close()
        try:
            with suppress(OSError), _claimed(self.places[0].parent):
                if self.places[0].lstat().st_ino == self.inode:
                    for place in reversed(self.places):
                        place.unlink(missing_ok=True)
        except ControlError as error:
            log.warning("the files of the control socket stay", why=str(error))
        self.listener.close()


async def _close(binding: Binding) -> None:
    """To the end, also when the server stops meanwhile."""
    with anyio.CancelScope(shield=True):
        await to_thread.run_sync(binding.close)


def bind_control(paths: Sequence[Path]) -> Binding | None:
    """Open a socket at `paths[0]`, mode 0600, with links to it at those of the other paths that are in its folder.

    None for no paths. It takes connections when the binding is told to listen, and its folder is locked until then. Raises
    ControlError when a place cannot be used or belongs to a server that lives.
    """
    if not paths:
        return None
    path = paths[0]
    places = [place for place in paths if place.parent == path.parent]
    if is_own_folder(path.parent):
        make_private(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with ExitStack() as claim:
        made: list[Path] = []
        try:
            claim.enter_context(_claimed(path.parent))
            for place in places:
                _clear(place)
            os.fchmod(listener.fileno(), 0o600)  # Linux gives its mode to the file: nobody may connect in between
            listener.bind(os.fspath(path))
            made.append(path)
            inode = path.lstat().st_ino
            for alias in places[1:]:
                alias.symlink_to(path.name)
                made.append(alias)
            listener.setblocking(False)
        except (OSError, ControlError) as error:
            listener.close()
            for place in made:
                with suppress(OSError):
                    place.unlink()
            if isinstance(error, ControlError):
                raise
            raise ControlError(f"{path}: the control socket cannot be opened ({error.strerror or error})") from error
        return Binding(listener, places, inode, claim.pop_all())


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder: of two servers starting at once, none shall take the other's fresh socket for a stale one.

    Raises ControlError when it is not to be had: in a shared folder any user may hold it, and must not hold us up.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(fd, folder)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, folder: Path) -> None:
    """Wait a little for a lock: another server has it only while it binds its socket."""
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise ControlError(
                    f'{folder}: another process holds a lock on the folder (set server.control to another place, or to "off")'
                ) from error
            time.sleep(LOCK_PAUSE)
        else:
            return


def _clear(place: Path) -> None:
    """Remove the socket a dead server left. Raises ControlError when a server answers there, or it is not a socket."""
    if not place.is_symlink() and not place.exists():
        return
    if place.exists() and not place.is_socket():
        raise ControlError(f"{place}: is there already and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(place))
        except (ConnectionRefusedError, FileNotFoundError):
            place.unlink()
        except OSError as error:
            raise ControlError(f"{place}: cannot tell whether a server is behind it ({error.strerror or error})") from error
        else:
            raise ControlTakenError(
                f"{place}: another server runs this site, process {pid_behind(probe)} (its control socket answers)"
            )
