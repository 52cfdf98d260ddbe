"""The spawner: a tiny process beside the gateway that starts every backend, and leaves nothing when the gateway is gone.

Run as a program (`python -I -S spawner.py FD SOFT READ WRITE`), never imported: nothing but the standard library and
guardian.py, so that it starts in 15 to 40 ms and forks in well under one, however large the gateway is. FD is its end of a
SOCK_SEQPACKET pair; SOFT is the soft limit of open files its children get; READ and WRITE are the ends of the guardian's
pipe, whose write end the gateway holds too. Every packet is one marshalled dict, as both ends are the same Python:

    gateway                                           spawner
                                                      {"ready": PID, "guardian": PID}
    {"do": "spawn", "id": N, "argv": …, "env": …,     {"spawned": N, "pid": PID} and three descriptors: our ends of
     "cwd": …, "user": …, "group": …, "limits": …}      stdin, stdout and stderr; or {"failed": N, "error": TEXT}
                                                      {"exited": PID, "status": S}: S as in subprocess, -N for signal N
    {"do": "release", "pid": PID}                     {"released": PID, "status": S}: the group is killed and reaped
    {"do": "watch", "pids": […]}                      (groups a former spawner started: killed if the gateway goes)
    {"do": "take over"}                               {"taken over": PID}: all of them are watched
    {"do": "forget", "pid": PID}
                                                      {"guardian": PID}: another, as the last one died

A child leads its own process group. Once it ended it stays a zombie until it is released, so that the number of its
group can't be given to anyone else while the gateway may still send a signal to it. The end of file means that the
gateway is gone: every group is killed and reaped. If the spawner is gone as well, the guardian kills them (guardian.py).
"""

import contextlib
import ctypes
import errno
import fcntl
import grp
import marshal
import os
import pwd
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

sys.path.append(__file__.rsplit("/", 3)[0])  # where our package is, which `-I` leaves out; without pathlib, which takes 5 ms

from scalesocket.backends.guardian import Groups, find_left, kill_group, now, running, start_guardian

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
MAX_PACKET = 1 << 20  # bytes; the kernel holds less than that for one socket
END_TIMEOUT = 3.0  # seconds that killed groups have to go when the gateway is gone
FOR_A_START = 64  # descriptors below the soft limit that a start may use
NICENESS = 3  # of us and all children above that of the gateway, which serves everybody: busy rooms leave it its share
GUARDIAN_PAUSE = 1.0  # seconds until the next attempt to start a guardian
FOUND_FOR = 1.0  # seconds for which a program that was found in PATH is not looked for again
LIMITS = {
    "memory": resource.RLIMIT_AS,
    "cpu": resource.RLIMIT_CPU,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
}


class Refused(Exception):
    """A child that can't be started as it was asked for; the text says why."""


class Leader:
    """A child, from its start until its group is released and reaped."""

    __slots__ = ("pid", "pidfd", "place", "status")

    def __init__(self, pid: int, pidfd: int, place: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        """Readable when it has ended; -1 after that."""
        self.place = place
        """Of its group in the table of the guardian."""
        self.status: int | None = None
        """As in subprocess; None while it runs."""


class Spawner:
    """Owns the children and the groups they lead."""

    def __init__(self, link: socket.socket, soft_limit: int, guardian_pipe: tuple[int, int]) -> None:
        self.link = link
        self.gateway = os.getppid()
        self.guardian_pipe = guardian_pipe
        self.guardian = 0  # its pid; 0 while there is none
        self.guardian_pidfd = -1
        self.guardian_due = 0.0
        self.groups = Groups()
        self.soft_limit = soft_limit
        self.hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        # A start needs a few descriptors below the children's soft limit: pidfds, which stay open, leave it those.
        self.highest_low_pidfd = soft_limit - FOR_A_START if soft_limit < self.hard_limit else self.hard_limit
        self.lowest_pidfd = soft_limit
        self.poll = select.epoll()
        self.buffer = bytearray(MAX_PACKET)
        self.leaders: dict[int, Leader] = {}  # by pid
        self.running: dict[int, Leader] = {}  # by pidfd
        self.releasing: set[Leader] = set()
        self.watched: dict[int, int] = {}  # places in the table, by pid
        self.found: dict[tuple[str, str | None, str], str] = {}  # by name, PATH and folder
        self.found_until = 0.0

    def run(self) -> None:
        """Serve until the gateway is gone."""
        woken = watch_children()
        self.poll.register(self.link, select.EPOLLIN)
        self.poll.register(woken, select.EPOLLIN)
        self.start_guardian()
        self.send({"ready": os.getpid(), "guardian": self.guardian})
        while True:
            for fd, _ in self.poll.poll(None if self.guardian else GUARDIAN_PAUSE):
                if fd == woken:
                    os.read(woken, 1 << 16)
                    self.reap_ended()
                elif fd in self.running:
                    self.report_exit(self.running[fd])
                elif fd == self.guardian_pidfd:
                    self.end_guardian()
                elif fd == self.link.fileno() and not self.serve():
                    self.end(woken)
                    return
            if not self.guardian and time.monotonic() >= self.guardian_due:
                self.start_guardian()
                self.send({"guardian": self.guardian})

    def serve(self) -> bool:
        """Do what one packet asks; False if the gateway is gone."""
        try:
            size = self.link.recv_into(self.buffer)
        except ConnectionResetError:
            return False
        if size == 0:
            return False
        request = marshal.loads(self.buffer)  # what is behind the dict is not looked at
        match request.pop("do"):
            case "spawn":
                self.spawn(**request)
            case "release":
                self.release(request["pid"])
            case "watch":
                for pid in request["pids"]:
                    self.watched[pid] = self.groups.add(pid)
            case "take over":
                self.send({"taken over": os.getpid()})
            case "forget":
                self.groups.remove(self.watched.pop(request["pid"], 0))
        return True

    def start_guardian(self) -> None:
        """Start a guardian, or try again a little later."""
        self.guardian_due = time.monotonic() + GUARDIAN_PAUSE
        with contextlib.suppress(OSError):
            self.guardian = start_guardian(self.groups, self.guardian_pipe[0], self.gateway)
            self.guardian_pidfd = self.open_pidfd(self.guardian)
            self.poll.register(self.guardian_pidfd, select.EPOLLIN)

    def end_guardian(self) -> None:
        """End the guardian, if it has not ended, and reap it."""
        if self.guardian_pidfd >= 0:
            self.poll.unregister(self.guardian_pidfd)
            os.close(self.guardian_pidfd)
        if self.guardian:
            with contextlib.suppress(ChildProcessError):  # else it was reaped with the others
                if os.waitid(os.P_PID, self.guardian, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    os.kill(self.guardian, signal.SIGKILL)
                os.waitpid(self.guardian, 0)
        self.guardian, self.guardian_pidfd = 0, -1

    def send(self, report: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        """Blocks while the gateway is behind; that it is gone is seen by `serve`."""
        try:
            socket.send_fds(self.link, [marshal.dumps(report)], fds)
        except (BrokenPipeError, ConnectionResetError):
            return

    def spawn(self, id: int, **request: Any) -> None:  # noqa: A002
        """Start a child, or say why not."""
        pipes: list[int] = []  # the read and the write end of stdin, stdout and stderr
        try:
            for _ in range(3):
                pipes += os.pipe()
            pid = self.start(pipes, **request)
        except Refused as error:
            self.send({"failed": id, "error": str(error)})
        except OSError as error:
            self.send({"failed": id, "error": describe(error, request["cwd"])})
        except Exception as error:  # the gateway waits for an answer, whatever went wrong
            sys.excepthook(*sys.exc_info())
            self.send({"failed": id, "error": f"{type(error).__name__}: {error}"})
        else:
            ours = (pipes[1], pipes[2], pipes[4])
            for fd in ours:
                fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
            self.send({"spawned": id, "pid": pid}, ours)
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
        """Start a child on `pipes` and return its pid."""
        stdio = (pipes[0], pipes[3], pipes[5])
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.soft_limit, self.hard_limit))
        self.groups.note_starting()
        place = 0
        try:
            if user is None and group is None and not limits:
                os.chdir(cwd)  # of the whole process, which has no folder of its own
                try:
                    pid = start_plain(self.find(argv[0], env, cwd), argv, env, stdio)
                finally:
                    os.chdir("/")
            else:
                pid = start_with(argv, env, cwd, stdio, user, group, limits)
            place = self.groups.add(pid)
        except ValueError as error:  # a NUL in a word or a variable
            raise Refused(str(error)) from error
        finally:
            self.groups.note_started()
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.hard_limit, self.hard_limit))
        try:
            pidfd = self.open_pidfd(pid)
        except OSError:
            kill_group(pid)
            self.groups.remove(place)
            os.waitpid(pid, 0)
            raise
        self.leaders[pid] = self.running[pidfd] = Leader(pid, pidfd, place)
        self.poll.register(pidfd, select.EPOLLIN)
        return pid

    def find(self, name: str, env: dict[str, str], cwd: str) -> str:
        """Look a program up as `find_program` does, once a second: a long `PATH` takes 25 us. Raises OSError."""
        if "/" in name:
            return name
        now = time.monotonic()
        if now >= self.found_until:
            self.found.clear()
            self.found_until = now + FOUND_FOR
        key = (name, env.get("PATH"), cwd)
        path = self.found.get(key)
        if path is None or not os.access(path, os.X_OK):
            path = self.found[key] = find_program(name, env)
        return path

    def open_pidfd(self, pid: int) -> int:
        """A descriptor that becomes readable when the child has ended."""
        low = os.pidfd_open(pid)
        if low < self.highest_low_pidfd:
            return low
        try:
            return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, self.lowest_pidfd)
        finally:
            os.close(low)

    def report_exit(self, leader: Leader) -> None:
        """Tell the gateway that a child has ended, and keep it as a zombie."""
        end = os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if end is not None:  # else an event of a descriptor that was closed since, and its number given to this child
            self.note_exit(leader, end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
            self.send({"exited": leader.pid, "status": leader.status})

    def note_exit(self, leader: Leader, status: int) -> None:
        """The child has ended: watch it no longer."""
        if leader.status is None:
            leader.status = status
            del self.running[leader.pidfd]
            self.poll.unregister(leader.pidfd)
            os.close(leader.pidfd)

    def release(self, pid: int) -> None:
        """Kill what is left of a group and reap it; `released` is sent when nothing of it is left."""
        leader = self.leaders.get(pid)
        if leader is not None and leader not in self.releasing:
            self.releasing.add(leader)
            kill_group(pid)
            self.groups.remove(leader.place)
            self.reap(leader)

    def reap_ended(self) -> None:
        """Reap groups that were released, and those that lost their parent and are ours since."""
        for leader in tuple(self.releasing):
            self.reap(leader)
        while (pid := oldest_zombie()) is not None and pid not in self.leaders:
            os.waitpid(pid, 0)

    def reap(self, leader: Leader) -> None:
        """Reap what has ended of a group that was killed."""
        pid = leader.pid
        if not self.reap_all(-pid) or not self.reap_all(pid):  # a leader may have moved to another group
            return
        del self.leaders[pid]
        self.releasing.discard(leader)
        self.send({"released": pid, "status": leader.status})

    def reap_all(self, which: int) -> bool:
        """Reap children as in waitpid; False if some still run."""
        while True:
            try:
                pid, status = os.waitpid(which, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid in self.leaders:
                self.note_exit(self.leaders[pid], os.waitstatus_to_exitcode(status))

    def end(self, woken: int) -> None:
        """The gateway is gone: kill every group, and reap what we started."""
        if self.watched:  # nobody holds their numbers any more
            added = self.groups.added()
            try:
                watched = find_left(running(), {pid: added[pid] for pid in self.watched if pid in added}, now())
            except OSError:  # there is no /proc, and so no way to know
                watched = set(self.watched)
            for pid in watched:
                kill_group(pid)
        for pid in tuple(self.leaders):
            self.release(pid)
        deadline = time.monotonic() + END_TIMEOUT
        while self.leaders and select.select([woken], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.read(woken, 1 << 16)
            self.reap_ended()
        self.end_guardian()


def watch_children() -> int:
    """Let no signal end us but SIGKILL, and return a descriptor that is readable when a child has ended.

    Handlers, not SIG_IGN, which a child would inherit: what has a handler is the default again after exec. What the
    gateway had ignored or blocked is made the default too.
    """
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(wake, b"\0")  # read once before the first wait, so that reading never finds the pipe empty
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return woken


def leave_terminal() -> None:
    """Have no controlling terminal, nor any child: who reads a password from it would be stopped in the background."""
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)


def oldest_zombie() -> int | None:
    """The oldest child that has ended and is not reaped."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended is not None else None


def start_plain(path: str, argv: list[str], env: dict[str, str], stdio: tuple[int, int, int]) -> int:
    """Start a child as the user we are, in our folder. Popen would take 100 us more of the 340 that a start costs us."""
    return os.posix_spawn(
        path,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)],
        setpgroup=0,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
    )


def find_program(name: str, env: dict[str, str]) -> str:
    """Look a program up in the `PATH` of its environment: the first that is a file and may be run. Raises OSError."""
    paths = [f"{folder}/{name}" if folder else name for folder in os.get_exec_path(env)]
    for path in paths:
        if os.access(path, os.X_OK) and stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return path
    code = errno.EACCES if any(os.access(path, os.F_OK) for path in paths) else errno.ENOENT
    raise OSError(code, os.strerror(code), name)


def start_with(
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    stdio: tuple[int, int, int],
    user: str | None,
    group: str | None,
    limits: dict[str, int],
) -> int:
    """Start a child as another user, or within limits, which `posix_spawn` can't. Raises Refused."""
    uid, gid, groups = find_ids(user, group)
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            process_group=0,
            close_fds=False,  # all of ours close at exec; to close a thousand pidfds in the child costs 50 us more
            user=uid,
            group=gid,
            extra_groups=groups,
            preexec_fn=limiter(limits) if limits else None,
        )
    except subprocess.SubprocessError as error:
        raise Refused("its limits could not be set") from error
    child.returncode = 0  # Popen must never reap it: that is done here, once the gateway has released it
    return child.pid


def find_ids(user: str | None, group: str | None) -> tuple[int | None, int | None, list[int] | None]:
    """User, group and further groups to run as; None for what stays as it is.

    Raises Refused if there is no such user or group, or if we may not become it.
    """
    if user is None and group is None:
        return None, None, None
    entry = find_user(user) if user is not None else None
    gid = find_group(group) if group is not None else entry.pw_gid if entry is not None else None
    if os.geteuid() == 0:
        return (entry.pw_uid, gid, os.getgrouplist(entry.pw_name, gid)) if entry and gid is not None else (None, gid, [])
    if (entry and entry.pw_uid != os.geteuid()) or gid not in {os.getegid(), *os.getgroups()}:
        raise Refused(f"only root may run it as {user if user is not None else group!r}")
    return None, gid, None


def find_user(name: str) -> pwd.struct_passwd:
    """The user of this name or number."""
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"there is no user {name!r}") from None


def find_group(name: str) -> int:
    """The number of the group of this name or number."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise Refused(f"there is no group {name!r}") from None


def limiter(limits: dict[str, int]) -> Callable[[], None]:
    """What sets `limits` in the child before exec. A `preexec_fn` makes it a fork, which is cheap in so small a process."""
    for name, limit in limits.items():
        hard = resource.getrlimit(LIMITS[name])[1]
        if hard != resource.RLIM_INFINITY and limit > hard:
            raise Refused(f"limits.{name}: {limit} is above the hard limit of {hard}")

    def set_limits() -> None:
        for name, limit in limits.items():
            resource.setrlimit(LIMITS[name], (limit, limit))

    return set_limits


def describe(error: OSError, cwd: str) -> str:
    """The error in words that follow the command's name, or the folder's if that is what is wrong."""
    if error.errno == errno.E2BIG:
        return "its arguments and environment are too long"
    if error.errno == errno.ENOEXEC:
        return "it is neither a program nor a script with a first line like #!/bin/sh"
    program = str(error.filename or "")
    if error.errno == errno.ENOENT and "/" in program and program != cwd and os.path.exists(os.path.join(cwd, program)):  # noqa: PTH110, PTH118
        return "its interpreter, or the loader it was linked for, is not there"
    words = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"its folder {cwd!r}: {words}" if error.filename == cwd and not os.access(cwd, os.X_OK) else words


def main() -> None:
    """Serve the gateway at the other end of the descriptor that was given."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.set_inheritable(False)
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115 a traceback is one write, one event
    guardian_pipe = int(sys.argv[3]), int(sys.argv[4])
    for fd in guardian_pipe:
        os.set_inheritable(fd, False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    leave_terminal()
    os.nice(NICENESS)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Spawner(link, soft, guardian_pipe).run()


if __name__ == "__main__":
    main()
