"""The guardian: a small fork of the spawner that kills the backends when gateway and spawner were killed together.

Either of the two ends every backend when the other is killed. When both are killed at once, only the guardian is left. It
blocks in one read of a pipe whose write end the gateway and the spawner hold, and reads the end of file when neither exists
any more. The groups to kill are in memory that it shares with the spawner (`Groups`): a start costs a store and wakes nobody.

The parent-death signal of prctl(2) is no replacement: it ends a child with the spawner alone, it does not reach
grandchildren, and `posix_spawn` cannot set it (docs/architecture.md has the figures).

Runs in the spawner, `python -I -S`: nothing but the standard library.
"""

import ctypes
import mmap
import os
import signal
import sys
import time
from typing import Final, NamedTuple

MAX_GROUPS: Final = 1 << 20
"""Groups the table has room for; the kernel allocates its pages when they are first used. Groups past that are not covered."""
PID_BITS: Final = 22
"""Bits of a word that hold a pid (Linux: PID_MAX_LIMIT); the others hold a time."""
STARTING: Final = 0
"""Index of the word that says since when a child is being started; 0 if none is."""
USED: Final = 1
"""Index of the word that says how many words are in use."""
FIRST: Final = 2
"""Index of the first group."""
END_TIMEOUT: Final = 3.0
"""Seconds for which the guardian kills what it finds."""
LOOK: Final = 0.02
"""Seconds between two looks at what is left."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
PR_SET_NAME: Final = 15  # linux/prctl.h


class Groups:
    """The groups of running backends, in memory shared with the guardian. The spawner alone writes."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 8 * (FIRST + MAX_GROUPS))).cast("Q")
        self.words[USED] = FIRST
        self.free: list[int] = []

    def note_starting(self) -> None:
        """A child is about to be started, whose pid nobody knows yet."""
        self.words[STARTING] = now()

    def note_started(self) -> None:
        """The child is in the table, or was not started."""
        self.words[STARTING] = 0

    def add(self, pid: int) -> int:
        """Add a group, which exists; return its place in the table, 0 if the table is full."""
        if self.free:
            place = self.free.pop()
        else:
            place = self.words[USED]
            if place == len(self.words):
                return 0
            self.words[USED] = place + 1
        self.words[place] = now() << PID_BITS | pid
        return place

    def remove(self, place: int) -> None:
        """Remove a group that was killed, before its number can be given to others."""
        if place:
            self.words[place] = 0
            self.free.append(place)

    def added(self) -> dict[int, int]:
        """When each group was added, in ticks, by its number."""
        words = self.words[FIRST : self.words[USED]].tolist()
        return {word & (1 << PID_BITS) - 1: word >> PID_BITS for word in words if word}


class Running(NamedTuple):
    """A process that has not ended (proc_pid_stat(5))."""

    pid: int
    parent: int
    group: int
    session: int
    niceness: int
    started: int
    """In ticks since boot."""


def now() -> int:
    """The time since boot in ticks, as processes have their start time."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS)


def running() -> list[Running]:
    """All processes of this machine that have not ended. Raises OSError without /proc."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 pathlib would take the spawner 5 ms to import
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in (b"Z", b"X"):
            parent, group, session, niceness, started = (int(fields[index]) for index in (1, 2, 3, 16, 19))
            found.append(Running(int(name), parent, group, session, niceness, started))
    return found


def find_left(processes: list[Running], added: dict[int, int], gone_at: int) -> set[int]:
    """The groups of `added` (see `Groups.added`) that have running members; also a leader that left its group.

    The number of a group may have been given to strangers since `gone_at`, when nobody held it any more. Strangers started
    later than that: their leader after the group was added, and without a leader all of them after `gone_at`. The kernel
    gives numbers in turn, and so none twice within one tick.
    """
    session = os.getsid(0)
    leaders = {each.pid: each for each in processes if each.pid in added}
    left = {pid for pid, leader in leaders.items() if leader.started <= added[pid] and leader.session == session}
    for each in processes:
        if each.group in added and each.group not in leaders and each.session == session and each.started <= gone_at:
            left.add(each.group)
    return left


def find_unknown(processes: list[Running], since: int, gone_at: int, spawner: int) -> set[int]:
    """Children that were being started when the spawner was killed, and are in no table.

    Like the guardian they were children of the spawner, and have its session and its niceness. They lead a group, or are still in
    that of the spawner.
    """
    ours = (os.getppid(), os.getsid(0))
    niceness = os.nice(0)
    return {
        each.pid
        for each in processes
        if since <= each.started <= gone_at
        and (each.parent, each.session) == ours
        and each.niceness >= niceness
        and each.group in (each.pid, spawner)
        and each.pid != os.getpid()
    }


def kill_group(pid: int) -> None:
    """SIGKILL to a group, and to the child that led it, should it have left."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def start_guardian(groups: Groups, read_end: int, gateway: int) -> int:
    """Fork the guardian of this process and of `gateway`; return its pid. Raises OSError.

    `read_end`: of the pipe that only those two can write to.
    """
    spawner = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)  # a signal to the group of the spawner does not end it
            signal.set_wakeup_fd(-1)
            keep_only(read_end)
            rename("room-guard", f"room guard of {gateway}")
            while os.read(read_end, 1):
                pass
            kill_left(groups, spawner, {spawner, gateway})
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
    return pid


def kill_left(groups: Groups, spawner: int, parents: set[int]) -> None:
    """Kill every group until none is left. `parents`: whose death is complete when they are our parent no longer."""
    gone_at = now()
    added, since = groups.added(), groups.words[STARTING]
    deadline = time.monotonic() + END_TIMEOUT
    while time.monotonic() < deadline:
        is_settled = os.getppid() not in parents  # its end of the pipe is closed before its children get another parent
        processes = running()
        left = find_left(processes, added, gone_at)
        if since and is_settled:
            left |= find_unknown(processes, since, gone_at, spawner)
        for pid in left:
            kill_group(pid)
        if is_settled and not left:
            break
        time.sleep(LOOK)


def keep_only(kept: int) -> None:
    """Close every descriptor but the standard streams and `kept`."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if fd > 2 and fd != kept:
            try:
                os.close(fd)
            except OSError:  # that of the listing
                continue


def rename(name: str, title: str) -> None:
    """Take a name of its own in the list of processes, so that killing the spawner by name leaves the guardian alive.

    The title is written over the words of the command line (proc_pid_stat(5): arg_start, arg_end), cut to their length.
    """
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if start and end > start:  # 0 where the kernel does not tell
        ctypes.memmove(start, title.encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)
