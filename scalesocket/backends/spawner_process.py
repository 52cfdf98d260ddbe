"""One spawner process as the gateway sees it: its start, the socket to it, its standard error and its guardian's pipe."""

import asyncio
import os
import select
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from scalesocket.backends.child import RELEASE_TIMEOUT
from scalesocket.backends.guardian_pipe import GuardianPipe
from scalesocket.backends.spawner.protocol import MAX_REPORT, MAX_REQUEST, REPORT_FDS, decode
from scalesocket.backends.spawner_stderr import SpawnerStderr
from scalesocket.errors import SpawnerError

PROGRAM: Final = Path(__file__).parent / "spawner" / "main.py"
READY_TIMEOUT: Final = 10.0
"""Seconds in which the first spawner must report that it is ready."""
ANCILLARY: Final = socket.CMSG_SPACE(REPORT_FDS * array("i").itemsize)
"""Bytes of the descriptors that come with a report."""
REMEDY: Final = "run the server as a systemd service with Delegate=yes (docs/spawner.md, Control groups)"
"""What gives programs control groups with all limits."""

log = structlog.get_logger()


class Report(NamedTuple):
    """A packet of the spawner (spawner/protocol.py)."""

    content: dict[str, Any]
    fds: list[int]
    has_all_fds: bool
    """False if the gateway has no descriptors left."""


class SpawnerProcess:
    """A spawner from its start until it has ended and `close` was called."""

    def __init__(self, soft_limit: int) -> None:
        """Start it, with a vfork, so that the size of the gateway does not matter. Raises OSError.

        `soft_limit`: of open files, for its children.
        """
        self.started_at = 0.0
        """In the loop's time; set by `watch`."""
        self.is_watching_all = False
        """Whether its guardian covers every running child, those of previous spawners too."""
        self._buffer = bytearray(MAX_REPORT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_writable: Callable[[], None] | None = None
        with ExitStack() as inherited, ExitStack() as undo:
            self._socket, spawner_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._socket.close)
            inherited.callback(spawner_end.close)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
            stderr, stderr_write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, stderr)
            inherited.callback(os.close, stderr_write_end)
            self.guardian_pipe = GuardianPipe()
            undo.callback(self.guardian_pipe.end_guardian)
            self._process = start_program(spawner_end.fileno(), soft_limit, self.guardian_pipe.ends, stderr_write_end)
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            self.guardian_pipe.close_read_end()
            undo.pop_all()
        self._socket.setblocking(False)
        self.pid = self._process.pid
        self._stderr = SpawnerStderr(stderr, self.pid)

    def wait_ready(self) -> dict[str, Any]:
        """Block until it reports that it is ready, and return the report. Raises SpawnerError or OSError."""
        self._socket.settimeout(READY_TIMEOUT)
        packet = self._socket.recv(MAX_REPORT)
        if not packet:
            raise SpawnerError("the spawner ended before it was ready")
        self._socket.setblocking(False)
        return dict(decode(packet))

    def watch(self, loop: asyncio.AbstractEventLoop, *, on_report: Callable[[], None], on_exit: Callable[[], None]) -> None:
        """Call `on_report` when `receive` has something, `on_exit` when the process has ended; log its standard error."""
        self._loop = loop
        self.started_at = loop.time()
        loop.add_reader(self._socket.fileno(), on_report)
        loop.add_reader(self._pidfd, on_exit)
        self._stderr.watch(loop)

    @property
    def is_blocked(self) -> bool:
        """Whether the kernel takes no more packets now."""
        return self._on_writable is not None

    def send(self, packet: bytes, on_writable: Callable[[], None], fd: int | None = None) -> bool:
        """Send a request, with a copy of `fd`. If the kernel does not take it, return False and call `on_writable` once it does.

        Raises OSError: EMSGSIZE for a request that is too long, BrokenPipeError or ConnectionResetError if it has died.
        """
        try:
            if fd is None:
                self._socket.send(packet)
            else:
                socket.send_fds(self._socket, [packet], [fd])
        except BlockingIOError:
            assert self._loop is not None
            self._on_writable = on_writable
            self._loop.add_writer(self._socket.fileno(), self._unblock)
            return False
        return True

    def receive(self) -> Report | None:
        """Receive a report; None if there is none now, or at the end of file."""
        while True:
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into([self._buffer], ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return None
            except ConnectionResetError:  # it died with unread requests; its last reports follow
                continue
            if not size:  # it has no reason to close its end and live; `on_exit` follows
                assert self._loop is not None
                self._loop.remove_reader(self._socket.fileno())
                self.kill()
                return None
            fds = [fd for _, _, data in ancillary for fd in array("i", data)]
            content = decode(self._buffer)  # ignores what follows the dict, the rest of an older report
            return Report(content, fds, not flags & socket.MSG_CTRUNC)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def wait(self) -> int:
        """Block until it has ended; return its status as in subprocess."""
        return self._process.wait()

    @property
    def guardian(self) -> int:
        """The pid of its guardian; 0 while there is none."""
        return self.guardian_pipe.guardian

    def note_guardian(self, pid: int) -> None:
        """Note its guardian, as it reported it; 0 if there is none."""
        self.guardian_pipe.guardian = pid
        if not pid:
            hint = "backends may outlive gateway and spawner if both are killed at once"
            log.warning("guardian missing", spawner=self.pid, hint=hint)

    def end(self) -> None:
        """Let it end, which kills and reaps its children, or kill it if it does not; then its guardian."""
        self.unwatch()
        self._socket.close()
        exited = select.poll()
        exited.register(self._pidfd, select.POLLIN)
        if not exited.poll(RELEASE_TIMEOUT * 1000):  # unlike Popen.wait with a timeout, it returns at the exit itself
            log.error("spawner killed", pid=self.pid, after=RELEASE_TIMEOUT)
            self.kill()
        self.wait()
        self.close()
        self.guardian_pipe.end_guardian()

    def unwatch(self) -> None:
        """Undo `watch`. Another loop may watch it then."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._loop.remove_reader(self._pidfd)
        self._stderr.unwatch()
        self._loop = None

    def close(self) -> None:
        """Close the socket, which ends a spawner that runs, and all else but the guardian's pipe."""
        self.unwatch()
        self._socket.close()
        os.close(self._pidfd)
        self._stderr.close()

    def _unblock(self) -> None:
        assert self._loop is not None
        assert self._on_writable is not None
        self._loop.remove_writer(self._socket.fileno())
        on_writable, self._on_writable = self._on_writable, None
        on_writable()


def start_first(soft_limit: int) -> SpawnerProcess:
    """Start the first spawner of a gateway, and block until it is ready. Raises SpawnerError."""
    process = None
    try:
        process = SpawnerProcess(soft_limit)
        ready = process.wait_ready()
    except (OSError, SpawnerError) as error:
        if process is not None:
            process.kill()
            process.end()
        raise SpawnerError(f"cannot start the spawner: {error}") from error
    process.is_watching_all = True
    process.note_guardian(ready["guardian"])
    return process


def start_program(gateway_socket: int, soft_limit: int, guardian_pipe: tuple[int, int], stderr: int) -> subprocess.Popen[bytes]:
    """Start the program of the spawner with these descriptors. Raises OSError."""
    options = ["-I", "-S", f"-Xutf8={sys.flags.utf8_mode}"]
    return subprocess.Popen(
        [sys.executable, *options, str(PROGRAM), str(gateway_socket), str(soft_limit), *map(str, guardian_pipe)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd="/",
        pass_fds=(gateway_socket, *guardian_pipe),
        # A group of its own: the terminal's signals are for the gateway alone. Not a session of its own: Linux divides CPU
        # time between sessions (sched_autogroup), which opens rooms 9 % slower (docs/spawner.md).
        process_group=0,
    )


def log_cgroups(folder: str, controllers: tuple[str, ...], reason: str) -> None:
    """Log how the limits of programs hold. `reason`: why there are no control groups; empty if there are."""
    consequences = []
    if "memory" not in controllers:
        consequences.append("limits.memory holds for each process alone")
    if "pids" not in controllers:
        consequences.append("limits.processes holds for all processes of a user together, and not for root")
    if reason:
        consequences.append("a process that calls setsid outlives its room")
    hint = f"{'; '.join(consequences)}; {REMEDY}" if consequences else None
    if reason:
        log.warning("no cgroups for limits", reason=reason, hint=hint)
    elif hint:
        log.warning("cgroups without controllers for limits", folder=folder, controllers=",".join(controllers), hint=hint)
    else:
        log.info("cgroups used for limits", folder=folder, controllers=",".join(controllers))
