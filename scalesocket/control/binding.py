"""The file of a control socket: bound under a lock of its folder, replaced if its server is dead, removed if it is still ours."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from scalesocket.control.address import ControlError, ControlTakenError, is_own_folder, make_private
from scalesocket.control.client import pid_behind

log = structlog.get_logger()

LOCK_TIMEOUT: Final = 0.25
"""Seconds to wait for the lock on the socket's folder."""
LOCK_RETRY: Final = 0.01
"""Seconds between two attempts to take it."""
PROBE_TIMEOUT: Final = 1.0
"""Seconds to wait for the server behind a socket that exists already."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A bound socket and the files that lead to it."""

    listener: socket.socket
    paths: Sequence[Path]
    """The socket, and links to it in the same folder."""
    inode: int
    lock: ExitStack
    """Holds the lock on the folder until the socket listens: until then, another server would take it for a stale one."""

    def listen(self) -> None:
        """Accept connections from now on."""
        self.listener.listen()
        self.lock.close()

    def close(self) -> None:
        """Remove the files and close the socket.

        Waits up to LOCK_TIMEOUT for the folder's lock. Files stay if the lock is taken, or if they are another server's by now.
        The files go first: the inode number of a removed file may be given to another socket.
        """
        self.lock.close()
        try:
            with suppress(OSError), _locked(self.paths[0].parent):
                if self.paths[0].lstat().st_ino == self.inode:
                    for path in reversed(self.paths):
                        path.unlink(missing_ok=True)
        except ControlError as error:
            log.warning("control socket not removed", error=str(error))
        self.listener.close()


def bind_control(paths: Sequence[Path]) -> Binding | None:
    """Bind a socket at `paths[0]`, mode 0600, with links to it at those of the other paths that are in the same folder.

    None if there are no paths. The folder stays locked until `Binding.listen`. Raises ControlError when a path cannot be used,
    and ControlTakenError when it belongs to a live server.
    """
    if not paths:
        return None
    folder = paths[0].parent
    if is_own_folder(folder):
        make_private(folder)
    neighbours = [path for path in paths if path.parent == folder]
    with ExitStack() as undo, ExitStack() as lock:
        try:
            listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            lock.enter_context(_locked(folder))
            inode = _bind(listener, neighbours)
        except OSError as error:
            reason = error.strerror or error
            raise ControlError(f"{paths[0]}: the control socket cannot be opened ({reason})") from error
        undo.pop_all()
        return Binding(listener, neighbours, inode, lock.pop_all())


def _bind(listener: socket.socket, paths: Sequence[Path]) -> int:
    """Bind at the first path and link the others to it; return the inode. If one of them fails, all files are removed again."""
    for path in paths:
        _remove_stale(path)
    created: list[Path] = []
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind: the file gets this mode on Linux, so no other user can connect first
        listener.bind(os.fspath(paths[0]))
        created.append(paths[0])
        inode = paths[0].lstat().st_ino
        for link in paths[1:]:
            link.symlink_to(paths[0].name)
            created.append(link)
        listener.setblocking(False)
    except OSError:
        for path in created:
            with suppress(OSError):
                path.unlink()
        raise
    return inode


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that of two servers that start at once none takes the other's new socket for a stale one.

    Raises ControlError after LOCK_TIMEOUT: in a shared folder any user may hold the lock, and must not block this server.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _wait_lock(fd, folder)
        yield
    finally:
        os.close(fd)


def _wait_lock(fd: int, folder: Path) -> None:
    """Wait for the lock: another server holds it only while it binds its socket."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                hint = 'set server.control to another path, or to "off"'
                raise ControlError(f"{folder}: another process holds a lock on this folder ({hint})") from error
            time.sleep(LOCK_RETRY)
        else:
            return


def _remove_stale(path: Path) -> None:
    """Remove the socket of a dead server. Raises ControlTakenError if a server answers, ControlError if it is not a socket."""
    if not path.is_symlink() and not path.exists():
        return
    if path.exists() and not path.is_socket():
        raise ControlError(f"{path}: this file exists and is not a socket (set server.control to another path)")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink()
        except OSError as error:
            raise ControlError(f"{path}: cannot find out whether a server uses it ({error.strerror or error})") from error
        else:
            raise ControlTakenError(
                f"{path}: in use by another server, process {pid_behind(probe)} (stop it, or set server.control)"
            )
