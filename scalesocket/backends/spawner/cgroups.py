"""Control groups (cgroup v2) of programs with `limits`: their limits hold for all processes together.

A process that calls setsid leaves its process group, but stays in its control group. Only one that may write the folders can
move itself: a program that runs as the server's own user, and not as another (`user`). The folders:

    BASE                           the group that the server was started in
    BASE/scalesocket-server        the server itself, moved here if BASE was delegated to it
    BASE/scalesocket-NS-GATEWAY    of one server; NS is its pid namespace
    …/room-PID                     of one program

The kernel lets a group with processes of its own hand no controllers to its children, so memory and processes are limited
only if BASE was delegated: it has processes of this server alone. Else the groups only kill.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from scalesocket.backends.spawner.processes import read_stat

SERVER_VARIABLE: Final = "SCALESOCKET_SUPERVISOR"
"""The variable with the pid of the supervisor, in a worker and its spawner."""
SERVER_GROUP: Final = "scalesocket-server"
FILES: Final = {"memory": ("memory", "memory.max"), "processes": ("pids", "pids.max")}
"""The controller and the file, by the key of `limits`."""
REMOVE_TRIES: Final = 100
"""Attempts to remove a killed group, REMOVE_PAUSE apart; what is left then, the next server removes."""
REMOVE_PAUSE: Final = 0.02
MOVE_TRIES: Final = 10
"""Times that the processes of the server are listed and moved, as they may start others meanwhile."""


class RoomGroups:
    """The control groups of one server's programs."""

    def __init__(self, gateway: int, base: str | None) -> None:
        """`base`: as `find_base` returns it. Creates nothing."""
        self.server = int(os.environ.get(SERVER_VARIABLE, gateway))
        """The process that all processes of the server are or descend from."""
        self.base = base
        self.root = f"{base}/scalesocket-{os.stat('/proc/self/ns/pid').st_ino}-{gateway}" if base else ""  # noqa: PTH116
        self.controllers: tuple[str, ...] = ()
        self.is_prepared = False
        self.reason = "no cgroup2 file system is mounted"
        """Why there are no groups; empty if there are."""
        self.members: set[int] = set()
        """The programs in groups that were not released yet."""
        self.leaving: dict[int, int] = {}
        """Attempts so far to remove the groups of released programs."""

    def prepare(self) -> bool:
        """Create what is needed before a program is started; False if there can be no group."""
        if self.base is None or (self.is_prepared and self.reason):
            self.is_prepared = True
            return False
        try:
            if not self.is_prepared:
                remove_dead(self.base, self.root)
            if make_folder(self.root) or not self.is_prepared:
                available = enable_controllers(self.base, lambda: move_server(str(self.base), self.server))
                self.controllers = enable_controllers(self.root, lambda: None) if available else ()
                self.probe()
            self.reason = ""
        except OSError as error:
            self.reason = f"{self.root}: {os.strerror(error.errno or 0).lower()}"
        self.is_prepared = True
        return not self.reason

    def probe(self) -> None:
        """Let a forked process enter a group, as programs will. Raises OSError if it may not."""
        pid = os.fork()
        if pid == 0:
            code = 255
            try:
                self.make_joiner({})()
                code = 0
            except OSError as error:
                code = error.errno or 255
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        remove(self.folder(pid))
        if code:
            raise OSError(code, os.strerror(code))

    def make_joiner(self, limits: dict[str, int]) -> Callable[[], None]:
        """Make what a forked child calls, as the spawner's user, to limit and enter a group of its own."""

        def join() -> None:
            folder = self.folder(os.getpid())
            make_folder(folder)
            for name, limit in limits.items():
                controller, file = FILES.get(name, ("", ""))
                if controller in self.controllers:
                    write(f"{folder}/{file}", str(limit))
            write(f"{folder}/cgroup.procs", "0")

        return join

    def folder(self, pid: int) -> str:
        """The group of a program."""
        return f"{self.root}/room-{pid}"

    def kill(self, pids: Iterable[int]) -> None:
        """Kill the groups of programs, where they have one. `release` removes them."""
        for pid in pids:
            with suppress(OSError):
                kill(self.folder(pid))

    def release(self, pid: int) -> None:
        """Kill the group of a program, if it has one, and remove it as soon as it is empty."""
        self.members.discard(pid)
        if self.root and os.path.isdir(self.folder(pid)):  # noqa: PTH112
            self.leaving[pid] = 0
            self.retry()

    def retry(self) -> None:
        """Kill and remove groups that were released."""
        for pid, tries in tuple(self.leaving.items()):
            if remove(self.folder(pid)) or tries >= REMOVE_TRIES:
                del self.leaving[pid]
            else:
                self.leaving[pid] = tries + 1

    def remove_unused(self) -> None:
        """Remove what starts that failed have left."""
        for folder in list_folders(self.root):
            with suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106

    def remove_all(self) -> bool:
        """Kill and remove the groups of all programs; False if some are left."""
        return not self.root or remove_tree(self.root)

    def end(self) -> None:
        """Wait briefly for killed groups, and remove what is empty."""
        for _ in range(REMOVE_TRIES):
            if not self.leaving:
                break
            time.sleep(REMOVE_PAUSE)
            self.retry()
        if self.root:
            with suppress(OSError):
                os.rmdir(self.root)  # noqa: PTH106


def find_base() -> str | None:
    """The group of this process on the mounted cgroup2 file system, or the one above that of a server moved earlier."""
    try:
        with open("/proc/self/cgroup") as file:  # noqa: PTH123
            own = next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
        with open("/proc/self/mountinfo") as file:  # noqa: PTH123
            mounts = [line.split(" - ")[0].split()[3:5] for line in file if " - cgroup2 " in line]
    except (OSError, StopIteration):
        return None
    for mount_root, folder in mounts:
        prefix = mount_root.rstrip("/")
        if own == mount_root or own.startswith(prefix + "/"):
            return (folder + own[len(prefix) :]).rstrip("/").removesuffix(f"/{SERVER_GROUP}")
    return None


def enable_controllers(folder: str, clear: Callable[[], None]) -> tuple[str, ...]:
    """Hand the controllers of `limits` to the groups in `folder`, and return those that they have.

    `clear` moves processes out of it, if it may.
    """
    wanted = {controller for controller, _ in FILES.values()}
    missing = wanted & {*read_words(f"{folder}/cgroup.controllers")} - {*read_words(f"{folder}/cgroup.subtree_control")}
    if missing and os.path.exists(f"{folder}/cgroup.type"):  # noqa: PTH110 the machine's root, which is not ours, has none
        with suppress(OSError):
            clear()
            for controller in sorted(missing):
                write(f"{folder}/cgroup.subtree_control", f"+{controller}")
    return tuple(sorted(wanted & {*read_words(f"{folder}/cgroup.subtree_control")}))


def move_server(base: str, server: int) -> None:
    """Move the server's processes out of `base`. Raises PermissionError unless `base` was delegated to it, or OSError."""
    for _ in range(MOVE_TRIES):
        pids = [int(word) for word in read_words(f"{base}/cgroup.procs")]
        if not pids:
            return
        if not is_delegated(base) or not all(is_below(pid, server) for pid in pids):
            raise PermissionError
        make_folder(f"{base}/{SERVER_GROUP}")
        for pid in pids:
            with suppress(ProcessLookupError):
                write(f"{base}/{SERVER_GROUP}/cgroup.procs", str(pid))


def is_delegated(base: str) -> bool:
    """Whether systemd, if it started us, leaves the group to us (`Delegate=yes`); it marks it so."""
    if "INVOCATION_ID" not in os.environ:
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(base, name) == b"1":
                return True
    return False


def is_below(pid: int, ancestor: int) -> bool:
    """Whether a process is `ancestor` or descends from it. One that has ended counts as its own."""
    try:
        while pid not in (0, 1, ancestor):
            pid = read_stat(pid)[1].parent
    except (FileNotFoundError, ProcessLookupError):
        return True
    return pid == ancestor


def remove_dead(base: str, own: str) -> None:
    """Kill and remove the groups of servers in our pid namespace that are dead."""
    prefix = own.rpartition("-")[0] + "-"
    dead = [folder for folder in list_folders(base) if folder.startswith(prefix) and is_dead(folder[len(prefix) :])]
    for _ in range(REMOVE_TRIES // 10):
        dead = [folder for folder in dead if not remove_tree(folder)]
        if not dead:
            break
        time.sleep(REMOVE_PAUSE)


def is_dead(pid: str) -> bool:
    """Whether the folder's name ends with the number of no process."""
    return pid.isdecimal() and not os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def remove_tree(root: str) -> bool:
    """Kill and remove the groups in a server's group, and itself; False if some are left."""
    left = [folder for folder in list_folders(root) if not remove(folder)]
    if not left:
        with suppress(OSError):
            os.rmdir(root)  # noqa: PTH106
    return not os.path.exists(root)  # noqa: PTH110


def remove(folder: str) -> bool:
    """Kill a group and remove it; False if that has to be tried again."""
    folders = [folder]
    try:
        for each in folders:
            kill(each)
            folders += list_folders(each)  # made by the program
        for each in reversed(folders):
            os.rmdir(each)  # noqa: PTH106
    except FileNotFoundError:
        return not os.path.exists(folder)  # noqa: PTH110 an inner one may have been removed meanwhile
    except OSError:
        return False
    return True


def kill(folder: str) -> None:
    """Kill all processes of a group and of the groups in it. Raises OSError."""
    if os.path.exists(f"{folder}/cgroup.kill"):  # noqa: PTH110 Linux 5.14
        write(f"{folder}/cgroup.kill", "1")
        return
    for pid in map(int, read_words(f"{folder}/cgroup.procs")):
        if pid:  # 0: a process that our pid namespace does not have
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def list_folders(folder: str) -> list[str]:
    """The groups in a group; none if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def make_folder(folder: str) -> bool:
    """Create a group; False if it exists. Raises OSError."""
    try:
        os.mkdir(folder)  # noqa: PTH102
    except FileExistsError:
        return False
    return True


def read_words(path: str) -> list[str]:
    """The words of a file. Raises OSError."""
    with open(path) as file:  # noqa: PTH123
        return file.read().split()


def write(path: str, text: str) -> None:
    """Write a file of a group, in one write. Raises OSError."""
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)
