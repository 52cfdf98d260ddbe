"""The guardian process: a fork of the spawner that kills the backends when nobody else can.

**When gateway and spawner are killed together.** When one of the two is killed, the other one ends every backend. The guardian
waits for the end of a pipe whose write end only the gateway and the spawner hold, so it reads the end of file when neither exists
any more. In a cluster, it then also sends the last word of the node (last_word.py), unless it has read STAY_SILENT. If it reads
STAND_DOWN, it ends and kills nothing.

**When a deadline passes and the spawner does not act**, because it is stopped, killed or blocked (deadline.py).

The groups to kill are in memory that it shares with the spawner (group_table.py): a start costs one store. The parent-death
signal of prctl(2) cannot replace it: it does not reach grandchildren, and `posix_spawn` cannot set it (docs/spawner.md).
"""

import ctypes
import os
import select
import signal
import sys
import time
from typing import Final

from scalesocket.backends.spawner.cgroups import RoomGroups
from scalesocket.backends.spawner.group_table import GroupTable
from scalesocket.backends.spawner.last_word import SharedLastWord, send_last_word
from scalesocket.backends.spawner.processes import TICKS, ProcessStat, boot_ticks, kill_group, list_running
from scalesocket.backends.spawner.protocol import STAY_SILENT
from scalesocket.backends.spawner.timer import NANOSECONDS

KILL_TIMEOUT: Final = 3.0
"""Seconds for which the guardian kills what it finds."""
KILL_INTERVAL: Final = 0.02
"""Seconds between two searches for what is left."""
DEADLINE_PATIENCE: Final = 50_000_000
"""Nanoseconds after a deadline in which the spawner may act."""
START_INTERVAL: Final = 0.5
"""Seconds between two searches after a deadline, while the spawner is blocked in a start."""
PR_SET_NAME: Final = 15  # linux/prctl.h


def fork_guardian(
    table: GroupTable, room_groups: RoomGroups, last_word: SharedLastWord, read_end: int, timer: int, gateway: int
) -> int:
    """Fork the guardian of this process and of `gateway`; return its pid. Raises OSError.

    `read_end`: of the pipe whose write end only those two hold. `timer`: readable from the deadline on; -1 if there is none.
    """
    spawner = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)  # a signal to the spawner's group does not end the guardian
            signal.set_wakeup_fd(-1)
            close_descriptors_except({read_end, timer})
            set_title("room-guard", f"room guard of {gateway}")
            byte, is_silent = STAY_SILENT, False
            while byte == STAY_SILENT:
                wait_ended(table, room_groups, read_end, timer, spawner)
                byte = os.read(read_end, 1)
                is_silent |= byte == STAY_SILENT
            if not byte:  # else STAND_DOWN
                are_dead = kill_remaining(table, room_groups, spawner, {spawner, gateway})
                word = last_word.get() if are_dead and not is_silent else None
                if word is not None:
                    send_last_word(**word)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()  # since Python 3.13 the hook does not
        finally:
            os._exit(0)
    return pid


def wait_ended(table: GroupTable, room_groups: RoomGroups, read_end: int, timer: int, spawner: int) -> None:
    """Wait until the pipe can be read. Meanwhile, kill what the spawner has left alive at a deadline."""
    poll = select.epoll()
    poll.register(read_end, select.EPOLLIN)
    if timer >= 0:
        poll.register(timer, select.EPOLLIN | select.EPOLLET)  # once for each deadline
    pause = None
    while not any(fd == read_end for fd, _ in poll.poll(pause)):
        pause = enforce_deadline(table, room_groups, spawner)


def enforce_deadline(table: GroupTable, room_groups: RoomGroups, spawner: int) -> float | None:
    """Kill the groups that are older than a deadline that has passed, unless the spawner has done so.

    Return the seconds until the next look; None: it comes with the next event of the timer.
    """
    deadline = table.deadline
    late = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - deadline
    if not deadline or late < -DEADLINE_PATIENCE:
        return None
    if late < DEADLINE_PATIENCE:
        return (DEADLINE_PATIENCE - late) / NANOSECONDS
    now, last = boot_ticks(), deadline * TICKS // NANOSECONDS
    added_at = {pid: ticks for pid, ticks in table.added_at().items() if ticks <= last}
    since, processes = table.starting_since, list_running()
    remaining = find_remaining_groups(processes, added_at, now)
    if since and os.getppid() == spawner:  # else its successor has the same marks as a child, and the gateway finds that
        remaining |= find_unlisted_children(processes, since, now, spawner)
    for pid in remaining:
        kill_group(pid)
    room_groups.kill({*remaining, *added_at})
    if remaining:
        return KILL_INTERVAL
    return START_INTERVAL if since else None


def kill_remaining(table: GroupTable, room_groups: RoomGroups, spawner: int, parents: set[int]) -> bool:
    """Kill every group until none is left; return whether that was so in time.

    `parents`: they are dead once neither is our parent.
    """
    orphaned_at = boot_ticks()
    added_at, since = table.added_at(), table.starting_since
    deadline = time.monotonic() + KILL_TIMEOUT
    while time.monotonic() < deadline:
        is_settled = os.getppid() not in parents  # a dying parent closes its pipe before its children get another parent
        processes = list_running()
        remaining = find_remaining_groups(processes, added_at, orphaned_at)
        if since and is_settled:
            remaining |= find_unlisted_children(processes, since, orphaned_at, spawner)
        for pid in remaining:
            kill_group(pid)
        if room_groups.remove_all() and is_settled and not remaining:
            return True
        time.sleep(KILL_INTERVAL)
    return False


def find_remaining_groups(processes: list[ProcessStat], added_at: dict[int, int], orphaned_at: int) -> set[int]:
    """Find the groups of `added_at` (see `GroupTable.added_at`) with running members, and leaders that left their group.

    After `orphaned_at` no parent kept these numbers from being reused. A reused number is recognized by start times: its
    leader started after the group was added, or, without a leader, all members after `orphaned_at`. The kernel assigns
    numbers in order, so none is reused within one tick.
    """
    session = os.getsid(0)
    leaders = {each.pid: each for each in processes if each.pid in added_at}
    remaining = {pid for pid, leader in leaders.items() if leader.started <= added_at[pid] and leader.session == session}
    for each in processes:
        if each.group in added_at and each.group not in leaders and each.session == session and each.started <= orphaned_at:
            remaining.add(each.group)
    return remaining


def find_unlisted_children(processes: list[ProcessStat], since: int, orphaned_at: int, spawner: int) -> set[int]:
    """Find children that were being started when the spawner was killed, and so are not in the table.

    Like the guardian they were children of the spawner, with its session and its niceness. They lead a group, or are still
    in the spawner's.
    """
    parent_and_session = (os.getppid(), os.getsid(0))
    niceness = os.nice(0)
    return {
        each.pid
        for each in processes
        if since <= each.started <= orphaned_at
        and (each.parent, each.session) == parent_and_session
        and each.niceness >= niceness
        and each.group in (each.pid, spawner)
        and each.pid != os.getpid()
    }


def close_descriptors_except(kept: set[int]) -> None:
    """Close every descriptor but the standard streams and `kept`."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:  # the descriptor of the listing itself
                continue


def set_title(name: str, title: str) -> None:
    """Set the name and the command line in the list of processes, so that `pkill` of the spawner's does not match.

    The title overwrites the arguments of the command line (proc_pid_stat(5): arg_start, arg_end), cut to their length.
    """
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if start and end > start:  # 0 where the kernel hides them
        ctypes.memmove(start, title.encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)
