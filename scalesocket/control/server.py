"""The server's end of the control socket. Owns the socket file and one task per connection, all children of `open_control`."""

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog

from scalesocket.control.address import ControlError, make_private
from scalesocket.control.messages import Answer, Request
from scalesocket.errors import ScalesocketError

log = structlog.get_logger()

MAX_REQUEST: Final = 64 * 1024
"""Bytes of the longest request; a longer one is answered with an error."""
MAX_CONNECTIONS: Final = 8
"""Connections served at once; more wait in the kernel's queue."""
REQUEST_TIMEOUT: Final = 5.0
"""Seconds to send the request, and to take the answer."""
ANSWER_TIMEOUT: Final = 60.0
"""Seconds to do what was asked for."""

Respond = Callable[[Request], Awaitable[Answer]]


@asynccontextmanager
async def open_control(paths: Sequence[Path], respond: Respond) -> AsyncIterator[None]:
    """Listen at the first of `paths` (the others, in the same folder, become links to it) and answer with `respond`.

    With no paths nothing is opened. Raises ControlError when a place cannot be used or belongs to a server that lives.
    The files are gone afterwards.
    """
    if not paths:
        yield
        return
    with _bound(paths) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_accept, listener, respond, name="control socket")
            yield
            tasks.cancel_scope.cancel()


async def _accept(listener: socket.socket, respond: Respond) -> None:
    loop = asyncio.get_running_loop()
    places = anyio.Semaphore(MAX_CONNECTIONS)
    async with anyio.create_task_group() as tasks:
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


@contextmanager
def _bound(paths: Sequence[Path]) -> Iterator[socket.socket]:
    """A listening socket at `paths[0]`, mode 0600, with links to it at the other paths."""
    path, *aliases = paths
    if aliases or not path.parent.is_dir():
        make_private(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            with _claimed(path.parent):
                for place in paths:
                    _clear(place)
                before = os.umask(0o177)  # from the start, not by a later chmod: nobody may connect in between
                try:
                    listener.bind(os.fspath(path))
                finally:
                    os.umask(before)
                inode = path.lstat().st_ino
                listener.listen()
                for alias in aliases:
                    alias.symlink_to(path.name)
        except OSError as error:
            raise ControlError(f"{path}: the control socket cannot be opened ({error.strerror or error})") from error
        listener.setblocking(False)
        try:
            yield listener
        finally:
            with suppress(OSError), _claimed(path.parent):
                if path.lstat().st_ino == inode:
                    for place in (*aliases, path):
                        place.unlink(missing_ok=True)
    finally:
        listener.close()


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder: of two servers starting at once, none shall take the other's fresh socket for a stale one."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


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
            raise ControlError(f"{place}: another server runs this site (its control socket answers)")
