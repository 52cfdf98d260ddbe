"""The children of the spawner, each the leader of a process group: watched by pidfd, released, killed and reaped."""

import os
import select
from collections.abc import Callable

from scalesocket.backends.spawner.cgroups import RoomGroups
from scalesocket.backends.spawner.descriptors import DescriptorLimits
from scalesocket.backends.spawner.group_table import GroupTable
from scalesocket.backends.spawner.processes import kill_group

Report = Callable[[dict[str, object]], None]


class GroupLeader:
    """A child, from its start until its group is released and reaped."""

    __slots__ = ("pid", "pidfd", "slot", "status")

    def __init__(self, pid: int, pidfd: int, slot: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        """Readable when it has ended; closed then."""
        self.slot = slot
        """Of its group in the table."""
        self.status: int | None = None
        """As in subprocess; None while it runs."""


class Children:
    """All children that are not yet released and reaped.

    A child that has ended stays a zombie until it is released: so the kernel cannot reuse the number of its group while the
    gateway may still send signals to it.
    """

    def __init__(
        self, poll: select.epoll, limits: DescriptorLimits, table: GroupTable, room_groups: RoomGroups, report: Report
    ) -> None:
        """`poll` reports the end of a child as an event of its pidfd; `report` sends a report to the gateway."""
        self.poll = poll
        self.limits = limits
        self.table = table
        self.room_groups = room_groups
        self.report = report
        self.by_pid: dict[int, GroupLeader] = {}
        self.running: dict[int, GroupLeader] = {}
        """By pidfd."""
        self.releasing: set[GroupLeader] = set()

    def add(self, pid: int, slot: int) -> None:
        """Watch a child that was just started. Raises OSError, after killing it, if it cannot be watched."""
        try:
            pidfd = self.limits.open_pidfd(pid)
        except OSError:
            kill_group(pid)
            self.room_groups.release(pid)
            self.table.remove(slot)
            os.waitpid(pid, 0)
            raise
        self.by_pid[pid] = self.running[pidfd] = GroupLeader(pid, pidfd, slot)
        self.poll.register(pidfd, select.EPOLLIN)

    def report_exit(self, pidfd: int) -> None:
        """Report that a child has ended, and leave it a zombie."""
        leader = self.running[pidfd]
        end = os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if end is not None:  # else the event of an earlier child, whose closed pidfd had the same number
            self.note_exit(leader, end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
            self.report({"exited": leader.pid, "status": leader.status})

    def note_exit(self, leader: GroupLeader, status: int) -> None:
        """Record the status and stop watching."""
        if leader.status is None:
            leader.status = status
            del self.running[leader.pidfd]
            self.poll.unregister(leader.pidfd)
            os.close(leader.pidfd)

    def release(self, pid: int) -> None:
        """Kill what is left of a group and reap it; `released` is reported once nothing is left."""
        leader = self.by_pid.get(pid)
        if leader is not None and leader not in self.releasing:
            self.releasing.add(leader)
            kill_group(pid)
            if pid in self.room_groups.members:
                self.room_groups.release(pid)
            self.table.remove(leader.slot)
            self.reap_group(leader)
            self.reap_orphans()  # that the zombie of the leader was in front of

    def reap(self) -> None:
        """Reap what has ended of released groups, and orphans, whose parent became the spawner (a subreaper)."""
        for leader in tuple(self.releasing):
            self.reap_group(leader)
        self.reap_orphans()

    def reap_orphans(self) -> None:
        """Reap what has ended and belongs to no group, up to a child that is not released: its release continues."""
        while (pid := find_oldest_zombie()) is not None and pid not in self.by_pid:
            os.waitpid(pid, 0)

    def reap_group(self, leader: GroupLeader) -> None:
        """Reap what has ended of a killed group, and report when that was all of it."""
        pid = leader.pid
        if not self.reap_all(-pid) or not self.reap_all(pid):  # a leader may have moved to another group
            return
        del self.by_pid[pid]
        self.releasing.discard(leader)
        self.report({"released": pid, "status": leader.status})

    def reap_all(self, which: int) -> bool:
        """Reap children, selected as in waitpid; False if some still run."""
        while True:
            try:
                pid, status = os.waitpid(which, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid in self.by_pid:
                self.note_exit(self.by_pid[pid], os.waitstatus_to_exitcode(status))


def find_oldest_zombie() -> int | None:
    """Find the oldest child that has ended and is not reaped."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended is not None else None
