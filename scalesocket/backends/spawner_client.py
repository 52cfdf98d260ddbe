"""The gateway's side of the spawner: requests children, receives reports of their ends, and replaces a spawner that dies.

`SpawnerClient.start` runs before the event loop and before the gateway raises its own limit of open files; `attach` gives it
the loop and its poller. It starts no tasks: everything happens in callbacks of the loop.

The gateway is a child subreaper, so when the spawner dies its children become the gateway's own. They run on as adopted
children, and the new spawner is asked to kill them if the gateway ends (spawner_recovery.py).

Requests, reports and the replacement stay in one class: all three change the same table of children and queue of starts.
"""

import asyncio
import errno
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final

import structlog

from scalesocket.backends.child import RELEASE_TIMEOUT, Child, SpawnRequest
from scalesocket.backends.child_table import ChildTable
from scalesocket.backends.kill_deadline import KillDeadline
from scalesocket.backends.orphan_reaper import become_subreaper
from scalesocket.backends.pending_starts import PendingStarts
from scalesocket.backends.request_queue import Request, RequestQueue
from scalesocket.backends.spawner.protocol import DEADLINE_PASSED
from scalesocket.backends.spawner_process import Report, SpawnerProcess, log_cgroups, start_first
from scalesocket.backends.spawner_recovery import SpawnerRecovery
from scalesocket.errors import SpawnerError
from scalesocket.io.descriptors import are_free, first_reserved
from scalesocket.io.poller import Poller

REPORTS_PER_ITERATION: Final = 8
"""Reports read in one iteration of the event loop, so that many starts do not delay messages."""
SHORT_LIFE: Final = 1.0
"""Seconds. A spawner that died younger is replaced only after RETRY_PAUSE."""
RETRY_PAUSE: Final = 1.0
"""Seconds until the next attempt to start a spawner; starts requested meanwhile fail."""
PIPES: Final = 3
"""Descriptors of a child in the gateway."""
TOO_MANY_FILES: Final = "the server has too many open files"

log = structlog.get_logger()


class SpawnerClient:
    """Starts children through a spawner process, and keeps the table of those that are not yet released and reaped."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poller: Poller | None = None
        self._soft_limit = 0
        self._process: SpawnerProcess | None = None
        self._is_closed = False
        self._starts = PendingStarts()
        self._requests = RequestQueue()
        self._children = ChildTable(self._release)
        self._recovery: SpawnerRecovery | None = None
        self._kill_deadline = KillDeadline(self._request, self._kill_all, self._check_deadlines)

    @property
    def pid(self) -> int | None:
        """The spawner process; None while there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def guardian(self) -> int | None:
        """The guardian process; None while there is none."""
        return self._process.guardian or None if self._process is not None else None

    @property
    def poller(self) -> Poller:
        """The poller given to `attach`."""
        assert self._poller is not None
        return self._poller

    @property
    def groups(self) -> frozenset[int]:
        """The groups of all children that are not yet reaped."""
        return frozenset(self._children.by_pid)

    def start(self) -> None:
        """Start the spawner and wait until it is ready: tens of milliseconds, before the event loop runs.

        Children get the soft limit of open files that is in force now. Raises SpawnerError.
        """
        if sys.platform != "linux":
            raise SpawnerError("programs can be started on Linux only")
        self._soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        become_subreaper()
        self._process = start_first(self._soft_limit)

    def attach(self, poller: Poller) -> None:
        """Serve from the event loop of `poller`, which all further calls must come from; it watches the pipes of children."""
        assert self._process is not None
        self._poller = self._children.poller = poller
        self._loop = self._kill_deadline.loop = poller.loop
        self._recovery = SpawnerRecovery(
            self._loop,
            self._children,
            is_own=lambda pid: pid in (self.pid, self.guardian),
        )
        self._process.watch(self._loop, on_report=self._read_reports, on_exit=self._replace)

    async def spawn(self, request: SpawnRequest) -> Child:
        """Start a child. If cancelled, a child that is started nonetheless is killed, and reaped before this returns.

        Raises SpawnerError, whose text says why and does not name the command.
        """
        self._kill_deadline.check()
        if self._process is None:
            raise SpawnerError("the spawner is not running")
        if not are_free(PIPES * (len(self._starts.in_flight) + 1)):
            raise SpawnerError(TOO_MANY_FILES)
        start = self._starts.add(request)
        self._send()
        return await start.wait()

    def set_deadline(self, boottime: float | None, last_word: dict[str, object] | None = None) -> None:
        """Have all backends killed at a time in seconds of CLOCK_BOOTTIME, also while the gateway is stopped.

        It replaces an earlier one; None: by none. Once it has passed, no backend is opened until there is another one.
        `last_word`: what is sent for a gateway that has died (spawner/last_word.py)."""
        self._kill_deadline.set(boottime, last_word)

    def on_expired(self, listener: Callable[[], None]) -> None:
        """Call `listener` for each deadline that passes, once all backends are killed: the rooms have to be closed."""
        self._kill_deadline.on_expired.append(listener)

    def check_deadline(self) -> None:
        """Raise SpawnerError if the deadline has passed."""
        self._kill_deadline.check()

    def guard_socket(self, fd: int) -> Callable[[], None]:
        """Have a target's socket shut down at the deadline. Call what this returns before the socket is closed."""
        return self._kill_deadline.guard(fd)

    def close(self) -> None:
        """End the spawner, which kills and reaps its children. Blocks: milliseconds, if all were released. Calls may repeat."""
        if self._is_closed:
            return
        self._is_closed = True
        self._starts.close("the server is shutting down")
        self._kill_deadline.close()
        self._requests.clear()
        if self._process is not None:
            self._process.end()
            self._process = None
        if self._recovery is not None:
            self._recovery.close()
        self._children.note_all_killed()

    def _release(self, child: Child) -> None:
        """Have the group of a killed child reaped."""
        if self._recovery is not None and child.pid in self._recovery:
            self._request({"do": "unwatch", "pid": child.pid})
            self._recovery.reap(child)
        else:
            self._request({"do": "release", "pid": child.pid})

    def _kill_all(self) -> None:
        """Kill every child that runs, and fail every start."""
        self._starts.fail_all(DEADLINE_PASSED)
        for child in self._children.by_pid.values():
            child.signal_group(signal.SIGKILL)

    def _request(self, request: Request, fd: int | None = None) -> None:
        self._requests.add(request, fd)
        self._send()

    def _send(self) -> None:
        """Send what is queued, as far as the kernel and the number of starts in flight allow."""
        if self._process is None or self._process.is_blocked:
            return
        assert self._loop is not None
        try:
            if not self._requests.send(self._process, self._send):
                return
            while (start := self._starts.next()) is not None:
                try:
                    if not self._process.send(start.packet, self._send):
                        return
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:
                        raise
                    start.fail("its arguments and environment are too long")
                else:
                    self._starts.note_sent(self._loop.time())
                    self._starts.watch_deadlines(self._loop, self._check_deadlines)
        except (BrokenPipeError, ConnectionResetError):
            return  # the spawner died: the next one gets what is queued

    def _check_deadlines(self) -> None:
        """Kill a spawner that does not answer, so that it is replaced: it delays every start, and knows no later deadline."""
        assert self._loop is not None
        while self._read_report():  # it may have answered while the event loop was blocked
            pass
        self._send()  # the answers may let others be sent
        if self._starts.fail_late(self._loop.time()) or self._kill_deadline.is_ignored:
            log.error("spawner not answering", pid=self.pid, hint="it is killed and replaced; rooms go on")
            self._kill_deadline.note_answer()  # of its successor
            if self._process is not None:
                self._process.kill()
                self._loop.call_later(RELEASE_TIMEOUT, self._give_up, self._process.pid)
        self._starts.watch_deadlines(self._loop, self._check_deadlines)

    def _give_up(self, pid: int) -> None:
        """Fail all starts: a killed spawner that has not ended cannot be replaced."""
        if self.pid == pid and not self._is_closed:
            log.error("killed spawner still running", pid=pid, hint="no programs can be started: restart the server")
            self._starts.fail_all("the spawner does not end")

    def _read_reports(self) -> None:
        for _ in range(REPORTS_PER_ITERATION):
            if not self._read_report():
                break
        self._send()

    def _read_report(self) -> bool:
        """Read a report; False if there is none."""
        if self._process is None or (report := self._process.receive()) is None:
            return False
        match report.content:
            case {"spawned": number, "pid": pid}:
                self._pass_child(number, pid, report)
            case {"failed": number, "error": error}:
                if (start := self._starts.take_answered(number)) is not None:
                    start.fail(error)
            case {"watching": _}:
                self._process.is_watching_all = True
                if self._recovery is not None:
                    self._recovery.note_watching()
            case {"deadline": _} | {"expired": _} | {"not guarded": _}:
                self._kill_deadline.note_report(report.content)
            case {"guardian": guardian}:  # also with "ready"
                self._process.note_guardian(guardian)
            case {"cgroups": folder, "controllers": controllers, "reason": reason}:
                log_cgroups(folder, controllers, reason)
            case {"exited": pid, "status": status}:
                self._children.note_exit(pid, status)
            case {"released": pid, "status": status}:
                self._children.note_released(pid, status)
        return True

    def _pass_child(self, number: int, pid: int, report: Report) -> None:
        """Pass a child to the start that requested it."""
        start = self._starts.take_answered(number)
        child = self._children.add(pid, *report.fds)
        if start is None:
            child.discard()
        elif (report.has_all_fds and max(report.fds) < first_reserved()) or start.answer.cancelled():
            start.succeed(child)
        else:
            child.discard()
            start.fail(TOO_MANY_FILES)

    def _replace(self) -> None:
        """Start another spawner, now that this one has ended, and adopt its children."""
        assert self._loop is not None
        assert self._recovery is not None
        while self._read_report():  # up to the end of file: its last reports are true
            pass
        process, self._process = self._process, None
        assert process is not None
        status, age = process.wait(), self._loop.time() - process.started_at
        process.close()
        self._recovery.keep_guardian(process)
        self._requests.clear()
        children, hint = len(self._children.by_pid), "rooms go on; another is started"
        log.error("spawner died", pid=process.pid, status=status, children=children, hint=hint)
        first_sent_at = self._starts.first_sent_at
        self._starts.retry_in_flight()
        if age < SHORT_LIFE:
            self._starts.fail_all("the spawner is not running")
            self._loop.call_later(RETRY_PAUSE, self._launch)
        else:
            self._launch()
        self._recovery.adopt_children(process, first_sent_at=first_sent_at)  # after the launch, which needs descriptors

    def _launch(self) -> None:
        """Start a spawner to replace one that died, or try again after RETRY_PAUSE."""
        assert self._loop is not None
        if self._is_closed:
            return
        try:
            self._process = SpawnerProcess(self._soft_limit)
        except OSError as error:
            log.error("spawner not started", error=str(error), retry_in=RETRY_PAUSE, hint="no program can be started until then")
            self._starts.fail_all("the spawner is not running")
            self._loop.call_later(RETRY_PAUSE, self._launch)
            return
        self._process.watch(self._loop, on_report=self._read_reports, on_exit=self._replace)
        if self._recovery is not None:
            self._recovery.silence_guardian()  # just before the new spawner can start anything
        self._requests.extend((request, None) for request in self._children.watch_requests())
        self._requests.extend(self._kill_deadline.requests())
        self._request({"do": "confirm watch"})
