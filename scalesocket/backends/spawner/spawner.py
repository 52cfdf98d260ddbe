"""The spawner: serves the requests of the gateway, and kills every backend when the gateway ends.

One epoll waits for requests, ended children, the guardian and the deadline. protocol.py has the packets.
"""

import fcntl
import os
import select
import socket
import sys
import time
from array import array
from typing import Any, Final

from scalesocket.backends.spawner.cgroups import REMOVE_PAUSE, RoomGroups, find_base
from scalesocket.backends.spawner.children import Children
from scalesocket.backends.spawner.deadline import Deadline
from scalesocket.backends.spawner.descriptors import DescriptorLimits
from scalesocket.backends.spawner.errors import StartError
from scalesocket.backends.spawner.group_table import GroupTable
from scalesocket.backends.spawner.guardian import KILL_INTERVAL, find_remaining_groups
from scalesocket.backends.spawner.guardian_process import RETRY_PAUSE, GuardianProcess
from scalesocket.backends.spawner.last_word import SharedLastWord, send_last_word
from scalesocket.backends.spawner.processes import boot_ticks, kill_group, list_running
from scalesocket.backends.spawner.protocol import DEADLINE_PASSED, MAX_REQUEST, decode
from scalesocket.backends.spawner.reports import Reports
from scalesocket.backends.spawner.start import ProgramFinder, Stdio, describe_error, start_plain, start_restricted

ANCILLARY: Final = socket.CMSG_SPACE(array("i").itemsize)
"""Bytes of the descriptor that may come with a request."""
END_TIMEOUT: Final = 3.0
"""Seconds for which killed groups are waited for when the gateway has ended."""


class Spawner:
    """Starts children for the gateway, and reports how they end."""

    def __init__(self, gateway: socket.socket, wakeup: int, limits: DescriptorLimits, *, guardian_pipe: int) -> None:
        """`gateway`: the socket pair's end. `wakeup`: readable after SIGCHLD. `guardian_pipe`: its read end."""
        self.gateway = gateway
        self.wakeup = wakeup
        self.limits = limits
        self.poll = select.epoll()
        self.table = GroupTable()
        self.room_groups = RoomGroups(os.getppid(), find_base())
        self.reports = Reports(gateway, self.poll)
        self.report = self.reports.add
        self.children = Children(self.poll, limits, self.table, self.room_groups, self.report)
        self.deadline = Deadline(self.poll, self.table)
        self.last_word = SharedLastWord()
        self.guardian = GuardianProcess(
            self.poll,
            limits,
            self.table,
            self.room_groups,
            self.last_word,
            pipe_read_end=guardian_pipe,
            timer=self.deadline.timer.fd,
            gateway=os.getppid(),
        )
        self.programs = ProgramFinder()
        self.buffer = bytearray(MAX_REQUEST)
        self.watched: dict[int, int] = {}
        """Slots in the table of groups that a previous spawner started, by pid."""

    def run(self) -> None:
        """Serve until the gateway ends, then kill and reap every child."""
        self.poll.register(self.gateway, select.EPOLLIN)
        self.poll.register(self.wakeup, select.EPOLLIN)
        self.guardian.start()
        self.report({"ready": os.getpid(), "guardian": self.guardian.pid})
        running, gateway = self.children.running, self.gateway.fileno()
        while True:
            pause = REMOVE_PAUSE if self.room_groups.leaving else None if self.guardian.pid else RETRY_PAUSE
            for fd, events in self.poll.poll(pause):
                if self.deadline.is_due:  # before any report of a child that was killed at it
                    self.expire()
                if fd == self.wakeup:
                    os.read(self.wakeup, 1 << 16)
                    self.children.reap()
                elif fd in running:
                    self.children.report_exit(fd)
                elif fd == self.guardian.pidfd:
                    self.guardian.end()
                elif fd == gateway:
                    if events & select.EPOLLOUT:
                        self.reports.send()
                    if events & ~select.EPOLLOUT and not self.serve():
                        self.end()
                        return
            if self.room_groups.leaving:
                self.room_groups.retry()
            if self.guardian.is_due:
                self.guardian.start()
                self.report({"guardian": self.guardian.pid})

    def serve(self) -> bool:
        """Serve one request; False if the gateway has ended."""
        try:
            size, ancillary, _, _ = self.gateway.recvmsg_into([self.buffer], ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        if size == 0:
            return False
        request = decode(self.buffer)  # ignores what follows the dict, the rest of an older request
        match request.pop("do"):
            case "spawn":
                self.spawn(**request)
            case "release":
                self.children.release(request["pid"])
            case "watch":
                for pid in request["pids"]:
                    self.watched[pid] = self.table.add(pid)
            case "confirm watch":
                self.report({"watching": os.getpid()})
            case "deadline":
                self.deadline.set(request["at"])
                self.report({"deadline": request["at"]})
                if self.deadline.is_due:
                    self.expire()
            case "last word":
                self.last_word.set(request["word"])
            case "guard":
                self.guard(request["id"], [fd for _, _, fds in ancillary for fd in array("i", fds)])
            case "stop guarding":
                self.deadline.release(request["id"])
            case "unwatch":
                self.table.remove(self.watched.pop(request["pid"], 0))
                if request["pid"] not in self.children.by_pid:
                    self.room_groups.release(request["pid"])
        return True

    def guard(self, number: int, fds: list[int]) -> None:
        """Guard a socket, or report that no descriptor was left for it."""
        if fds:
            self.deadline.guard(number, fds[0])
        else:
            self.report({"not guarded": number})

    def expire(self) -> None:
        """Kill all backends at the deadline, and start none until there is another deadline. The gateway still reaps them."""
        for pid in (*self.children.by_pid, *self.find_watched()):
            kill_group(pid)
        self.room_groups.kill({*self.room_groups.members, *self.watched})
        self.deadline.note_kill()
        assert self.deadline.at is not None
        self.report({"expired": self.deadline.at})  # before the gateway can notice the end of a connection
        self.deadline.shut_down()

    def spawn(self, id: int, **request: Any) -> None:  # noqa: A002
        """Start a child and report it, or why it cannot be started."""
        pipes: list[int] = []  # the read and the write end of stdin, stdout and stderr
        try:
            for _ in range(3):
                pipes += os.pipe()
            pid = self.start(pipes, **request)
        except StartError as error:
            self.report({"failed": id, "error": str(error)})
        except OSError as error:
            self.report({"failed": id, "error": describe_error(error, request["cwd"])})
        except Exception as error:  # the gateway waits for an answer, whatever went wrong
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()  # since Python 3.13 the hook does not
            self.report({"failed": id, "error": f"{type(error).__name__}: {error}"})
        else:
            gateway_ends = (pipes[1], pipes[2], pipes[4])
            for fd in gateway_ends:
                fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
                pipes.remove(fd)
            self.report({"spawned": id, "pid": pid}, gateway_ends)
        finally:
            for fd in pipes:
                os.close(fd)

    def start(
        self,
        pipes: list[int],
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        user: str | None,
        group: str | None,
        limits: dict[str, int],
    ) -> int:
        """Start a child on `pipes` and return its pid. Raises StartError or OSError."""
        stdio = (pipes[0], pipes[3], pipes[5])
        self.limits.use_soft()
        self.table.begin_start()
        try:
            if user is None and group is None and not limits:
                os.chdir(cwd)  # of the whole spawner, which needs no folder of its own
                try:
                    path = self.programs.find(argv[0], env, cwd)
                    self.check_deadline()  # a folder on a network may have taken long
                    pid = start_plain(path, argv, env, stdio)
                finally:
                    os.chdir("/")
            else:
                self.check_deadline()
                pid = self.start_restricted(argv, env, cwd, stdio, user, group, limits)
            slot = self.table.add(pid)
        except ValueError as error:  # a NUL in an argument or a variable
            raise StartError(str(error)) from error
        finally:
            self.table.end_start()
            self.limits.use_hard()
        self.children.add(pid, slot)
        return pid

    def check_deadline(self) -> None:
        """Raise StartError if the deadline has passed."""
        if self.deadline.forbids_starts:
            raise StartError(DEADLINE_PASSED)

    def start_restricted(
        self,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        stdio: Stdio,
        user: str | None,
        group: str | None,
        limits: dict[str, int],
    ) -> int:
        """Start a child as another user or with limits; those in a control group, if there can be one."""
        groups = self.room_groups
        is_first = not groups.is_prepared
        join = groups.make_joiner(limits) if limits and groups.prepare() else None
        if limits and is_first:
            self.report({"cgroups": groups.root, "controllers": groups.controllers, "reason": groups.reason})
        try:
            pid = start_restricted(argv, env, cwd, stdio, user, group, limits, join)
        except BaseException:
            if join is not None:
                groups.remove_unused()
            raise
        if join is not None:
            groups.members.add(pid)
        return pid

    def end(self) -> None:
        """Kill every group after the end of the gateway, and reap the children."""
        for pid in self.find_watched():
            kill_group(pid)
        for pid in self.watched:
            self.room_groups.release(pid)
        for pid in tuple(self.children.by_pid):
            self.children.release(pid)
        deadline = time.monotonic() + END_TIMEOUT
        while self.children.by_pid and select.select([self.wakeup], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.read(self.wakeup, 1 << 16)
            self.children.reap()
        self.room_groups.end()
        self.children.reap()
        self.deadline.shut_down()
        self.send_last_word(deadline)
        self.guardian.end()

    def send_last_word(self, deadline: float) -> None:
        """Send the last word once all groups are dead, also those of previous spawners; none if one is left at the deadline."""
        word = self.last_word.get()
        if word is None or self.children.by_pid:
            return
        while self.find_watched():
            if time.monotonic() >= deadline:
                return
            time.sleep(KILL_INTERVAL)
        send_last_word(**word)

    def find_watched(self) -> set[int]:
        """Find the groups of previous spawners that run. No child of ours keeps the kernel from reusing their numbers."""
        if not self.watched:
            return set()
        added_at = self.table.added_at()
        added_at = {pid: added_at[pid] for pid in self.watched if pid in added_at}
        try:
            return find_remaining_groups(list_running(), added_at, boot_ticks())
        except OSError:  # without /proc, reused numbers cannot be recognized
            return set(self.watched)
