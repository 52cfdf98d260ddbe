"""The gateway's side of the spawner: asks it for children, hears of their ends, and replaces it should it die.

`Spawner.start` runs before the event loop and before the gateway raises its own limit of open files; `attach` gives it
the loop and its poller. It starts no tasks: everything happens in callbacks of the loop.

The gateway is a child subreaper, so when the spawner dies its children become the gateway's own. They run on as `Orphans`,
and the new spawner is told of them only to kill them with the gateway.
"""

import asyncio
import ctypes
import errno
import marshal
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from scalesocket.backends.child import RELEASE_TIMEOUT, Child, SpawnRequest
from scalesocket.backends.groups import find_strays
from scalesocket.backends.guardian_pipe import GuardianPipe
from scalesocket.backends.orphans import Orphans
from scalesocket.backends.spawner_stderr import SpawnerStderr
from scalesocket.backends.starts import SPAWN_TIMEOUT, Starts
from scalesocket.errors import SpawnerError
from scalesocket.io.poller import Poller

PROGRAM: Final = Path(__file__).parent / "spawner" / "main.py"
PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
MAX_PACKET: Final = 1 << 16
"""Longest report of the spawner, in bytes."""
SEND_BUFFER: Final = 1 << 20
"""Bytes the kernel may hold for the spawner, and so the longest request; a system's `net.core.wmem_max` may be lower."""
REPORTS_A_TURN: Final = 8
"""Reports read in one turn of the loop, so that many starts do not delay everyone's messages."""
READY_TIMEOUT: Final = 10.0
"""Seconds the first spawner has until it says that it is ready."""
SHORT_LIFE: Final = 1.0
"""A spawner that died before this age, in seconds, is replaced only after a pause."""
PAUSE: Final = 1.0
"""Seconds until the next attempt to start a spawner; starts asked for meanwhile fail."""

ANCILLARY: Final = socket.CMSG_SPACE(3 * array("i").itemsize)
"""Bytes that come beside a report: three descriptors."""

log = structlog.get_logger()


class Spawner:
    """The process that starts children, whichever process that is at the time."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poller: Poller | None = None
        self._soft_limit = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._link: socket.socket | None = None
        self._stderr: SpawnerStderr | None = None
        self._pipe: GuardianPipe | None = None
        self._former: list[GuardianPipe] = []
        """Of spawners that died, until the guardian of the next one has taken over."""
        self._started_at = 0.0
        self._is_closed = False
        self._starts = Starts()
        self._clock: asyncio.TimerHandle | None = None
        """Runs to when the first answer is due. One for all: to set and cancel one for each start takes 0.8 us."""
        self._orders: deque[bytes] = deque()
        """Packets to send before any start; at most a few for each child."""
        self._packet = bytearray(MAX_PACKET)
        """Where a report is read to."""
        self._is_blocked = False
        self._children: dict[int, Child] = {}
        """By pid, from the spawner's answer until nothing is left of the group."""
        self._orphans: Orphans | None = None

    @property
    def pid(self) -> int | None:
        """The process that starts children; None while there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def guardian(self) -> int | None:
        """The process that kills the children should both of us be killed; None while there is none."""
        return self._pipe.guardian or None if self._pipe is not None else None

    @property
    def poller(self) -> Poller:
        """The poller given to `attach`."""
        assert self._poller is not None
        return self._poller

    @property
    def groups(self) -> frozenset[int]:
        """The groups of all children that are not yet gone."""
        return frozenset(self._children)

    def start(self) -> None:
        """Start the process and wait until it is ready: tens of milliseconds, before the event loop runs.

        Children get the soft limit of open files that is in force now. Raises SpawnerError.
        """
        if sys.platform != "linux":
            raise SpawnerError("programs can be started on Linux only")
        self._soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise SpawnerError(f"cannot become a child subreaper: {os.strerror(ctypes.get_errno()).lower()}")
        try:
            self._launch()
        except OSError as error:
            raise SpawnerError(f"cannot start the spawner: {error}") from error
        assert self._link is not None
        assert self._process is not None
        self._link.settimeout(READY_TIMEOUT)
        try:
            ready = self._link.recv(MAX_PACKET)
            if not ready:
                raise SpawnerError("the spawner ended before it was ready")
        except (OSError, SpawnerError) as error:
            self._process.kill()
            self._process.wait()
            self.close()
            raise SpawnerError(f"cannot start the spawner: {error}") from error
        self._link.setblocking(False)
        self._note_guardian(marshal.loads(ready)["guardian"])

    def attach(self, poller: Poller) -> None:
        """Serve from the event loop of `poller`, which all further calls must come from; it watches the pipes of children."""
        self._poller = poller
        self._loop = poller.loop
        self._orphans = Orphans(self._loop, self._forget)
        self._started_at = self._loop.time()
        self._watch()

    async def spawn(self, request: SpawnRequest) -> Child:
        """Start a child. If cancelled, a child that is started nonetheless is killed, and reaped before this returns.

        Raises SpawnerError, whose text says why and does not name the command.
        """
        if self._process is None:
            raise SpawnerError("the spawner is not running")
        start = self._starts.ask(request)
        self._send()
        return await start.wait()

    def close(self) -> None:
        """End the process, which kills and reaps what it still has. Blocks: milliseconds, if everything was released."""
        if self._is_closed:
            return
        self._is_closed = True
        self._starts.fail_all("the server is shutting down")
        if self._clock is not None:
            self._clock.cancel()
        if self._process is not None:
            self._unwatch()
            try:
                self._process.wait(RELEASE_TIMEOUT)
            except subprocess.TimeoutExpired:
                log.error("the spawner does not end", pid=self._process.pid)
                self._process.kill()
                self._process.wait()
            self._process = None
        self._cut_former()
        for pid, child in tuple(self._children.items()):
            if self._orphans is not None and pid in self._orphans:
                self._orphans.end(pid)
            child.is_released = True
            child.note_exit(-signal.SIGKILL)
            self._forget(child)

    def _launch(self) -> None:
        """Start the process. This is a vfork, so the size of the gateway does not matter."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process: subprocess.Popen[bytes] | None = None
        our_stderr, its_stderr = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        pipe: GuardianPipe | None = None
        try:
            pipe = GuardianPipe()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            ours.setblocking(False)
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    f"-Xutf8={sys.flags.utf8_mode}",
                    str(PROGRAM),
                    str(its.fileno()),
                    str(self._soft_limit),
                    *map(str, pipe.ends),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=its_stderr,
                cwd="/",
                pass_fds=(its.fileno(), *pipe.ends),
                # The terminal's signals are for the gateway alone. Not a session of its own: Linux weighs sessions against each
                # other (sched_autogroup), which opens rooms 9 % slower and wakes what a lone message wakes less well.
                process_group=0,
            )
            self._pidfd = os.pidfd_open(process.pid)
            pipe.close_read_end()
        except OSError:
            ours.close()
            os.close(our_stderr)
            if pipe is not None:
                pipe.cut()
            if process is not None:
                process.kill()
                process.wait()
            raise
        finally:
            its.close()
            os.close(its_stderr)
        self._process, self._link, self._pipe = process, ours, pipe
        self._stderr = SpawnerStderr(our_stderr, process.pid)

    def _watch(self) -> None:
        assert self._loop is not None
        assert self._link is not None
        self._loop.add_reader(self._link.fileno(), self._read)
        self._loop.add_reader(self._pidfd, self._died)
        assert self._stderr is not None
        self._stderr.watch(self._loop)

    def _unwatch(self) -> None:
        """Let go of the process: it sees the end of file."""
        assert self._link is not None
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._link.fileno())
            self._loop.remove_writer(self._link.fileno())
            self._loop.remove_reader(self._pidfd)
        self._is_blocked = False
        assert self._pipe is not None
        self._link.close()
        os.close(self._pidfd)
        assert self._stderr is not None
        self._stderr.close()
        self._former.append(self._pipe)
        self._link, self._pidfd, self._stderr, self._pipe = None, -1, None, None

    def _release(self, child: Child) -> None:
        """A child was killed: have its group reaped."""
        if self._orphans is not None and child.pid in self._orphans:
            self._order({"do": "unwatch", "pid": child.pid})
            self._orphans.reap(child)
        else:
            self._order({"do": "release", "pid": child.pid})

    def _order(self, order: dict[str, object]) -> None:
        self._orders.append(marshal.dumps(order))
        self._send()

    def _send(self) -> None:
        """Send what is queued, as far as the kernel and the starts in flight allow."""
        if self._is_blocked or self._link is None:
            return
        assert self._loop is not None
        try:
            while self._orders:
                self._link.send(self._orders[0])
                self._orders.popleft()
            while (start := self._starts.next()) is not None:
                try:
                    self._link.send(start.packet)
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:
                        raise
                    start.fail("its arguments and environment are too long")
                else:
                    self._starts.sent(self._loop.time())
                    self._watch_clock()
        except BlockingIOError:
            self._is_blocked = True
            self._loop.add_writer(self._link.fileno(), self._unblock)
        except (BrokenPipeError, ConnectionResetError):
            return  # it died: what is queued goes to the next one

    def _unblock(self) -> None:
        assert self._loop is not None
        assert self._link is not None
        self._loop.remove_writer(self._link.fileno())
        self._is_blocked = False
        self._send()

    def _watch_clock(self) -> None:
        assert self._loop is not None
        if self._clock is None and (due := self._starts.next_due) is not None:
            self._clock = self._loop.call_at(due, self._look_at_clock)

    def _look_at_clock(self) -> None:
        """A spawner that does not answer holds up everyone: it is killed, and replaced when it is gone."""
        assert self._loop is not None
        self._clock = None
        while self._link is not None and self._read_one():  # it may have answered while the loop was held up
            pass
        self._send()  # to read them made place for others
        if self._starts.fail_late(self._loop.time()):
            log.error("the spawner does not answer", pid=self.pid, after=SPAWN_TIMEOUT)
            if self._process is not None:
                self._process.kill()
                self._loop.call_later(RELEASE_TIMEOUT, self._give_up, self._process.pid)
        self._watch_clock()

    def _give_up(self, pid: int) -> None:
        """A spawner that was killed and is still there can't be replaced: nobody waits for it."""
        if self.pid == pid and not self._is_closed:
            log.error("the spawner does not end", pid=pid)
            self._starts.fail_all("the spawner does not end")

    def _read(self) -> None:
        """Read some reports."""
        for _ in range(REPORTS_A_TURN):
            if not self._read_one():
                break
        self._send()

    def _read_one(self) -> bool:
        """Read a report; False if there is none."""
        assert self._link is not None
        try:
            size, messages, flags, _ = self._link.recvmsg_into([self._packet], ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # it died without reading all of ours; its last reports come next
            return True
        if not size:  # it has no reason to close its end and live; `_died` follows
            assert self._loop is not None
            assert self._process is not None
            self._loop.remove_reader(self._link.fileno())
            self._process.kill()
            return False
        fds = [fd for _, _, data in messages for fd in array("i", data)]
        match marshal.loads(self._packet):  # what is behind the dict is an older report's
            case {"spawned": number, "pid": pid}:
                self._spawned(number, pid, fds, is_whole=not flags & socket.MSG_CTRUNC)
            case {"failed": number, "error": error}:
                if (start := self._starts.answered(number)) is not None:
                    start.fail(error)
            case {"watching": _}:
                self._cut_former()
            case {"guardian": guardian}:  # beside "ready", or when one has died
                self._note_guardian(guardian)
            case {"exited": pid, "status": status}:
                if pid in self._children:
                    self._children[pid].note_exit(status)
            case {"released": pid, "status": status}:
                if pid in self._children:
                    self._children[pid].note_exit(status)
                    self._forget(self._children[pid])
        return True

    def _spawned(self, number: int, pid: int, fds: list[int], *, is_whole: bool) -> None:
        start = self._starts.answered(number)
        assert self._poller is not None
        fds += [-1] * (3 - len(fds))
        child = self._children[pid] = Child(pid, *fds, poller=self._poller, on_release=self._release)
        if start is None:
            child.discard()
        elif is_whole or start.answer.cancelled():
            start.succeed(child)
        else:
            child.discard()
            start.fail("the server has too many open files")

    def _died(self) -> None:
        """The spawner is gone. Its children are ours now; a new one is started."""
        assert self._loop is not None
        assert self._orphans is not None
        assert self._poller is not None
        assert self._process is not None
        while self._read_one():  # up to the end of file: what it reported is true
            pass
        status, old = self._process.wait(), self._process.pid
        self._unwatch()
        self._process = None
        self._orders.clear()
        log.error(
            "the spawner died", pid=old, status=status, children=len(self._children), hint="rooms go on; another is started"
        )
        asked_at = min((start.asked_at for start in self._starts.in_flight.values()), default=None)
        self._starts.begin_again()
        if self._loop.time() - self._started_at < SHORT_LIFE:
            self._starts.fail_all("the spawner is not running")
            self._loop.call_later(PAUSE, self._relaunch)
        else:
            self._relaunch()
        strays: list[int] = []
        try:  # after the launch, which comes about whatever becomes of this
            if asked_at is not None:
                since = time.clock_gettime(time.CLOCK_BOOTTIME) - (self._loop.time() - asked_at) - 1.0
                others = {self.pid or 0, *(pipe.guardian for pipe in self._former)}
                strays = find_strays(old, {*self._children, *others}, since)
        except OSError as error:
            log.error("cannot look for what the spawner had started", pid=old, error=str(error))
        for child in tuple(self._children.values()):  # after the launch, which can't do without descriptors
            if child.pid not in self._orphans:
                self._orphans.adopt(child)
        for pid in strays:  # started, but it died before it could say so
            stray = self._children[pid] = Child(pid, -1, -1, -1, poller=self._poller, on_release=self._release)
            self._orphans.adopt(stray)
            stray.release()

    def _relaunch(self) -> None:
        assert self._loop is not None
        if self._is_closed:
            return
        try:
            self._launch()
        except OSError as error:
            log.error("cannot start the spawner", error=str(error))
            self._starts.fail_all("the spawner is not running")
            self._loop.call_later(PAUSE, self._relaunch)
            return
        self._started_at = self._loop.time()
        self._watch()
        groups = [child.pid for child in self._children.values() if not child.is_released]
        for first in range(0, len(groups), 1000):
            self._order({"do": "watch", "pids": groups[first : first + 1000]})
        self._order({"do": "confirm watch"})
        self._send()

    def _note_guardian(self, pid: int) -> None:
        assert self._pipe is not None
        self._pipe.guardian = pid
        if not pid:
            log.warning(
                "no guardian", spawner=self.pid, hint="backends may outlive gateway and spawner if both are killed at once"
            )

    def _cut_former(self) -> None:
        """End the guardians of former spawners: the current one watches what they started."""
        for pipe in self._former:
            pipe.cut()
        self._former.clear()

    def _forget(self, child: Child) -> None:
        """Nothing is left of it."""
        del self._children[child.pid]
        child.note_released()
