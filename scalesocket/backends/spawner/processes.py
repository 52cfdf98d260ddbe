"""The processes of this machine as /proc lists them (proc_pid_stat(5)), and how a process group is killed."""

import os
import signal
import time
from typing import Final, NamedTuple

TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Ticks per second of the kernel's clock for start times."""
NICENESS: Final = 3
"""Added to the gateway's niceness, for the spawner and all backends: when they use every CPU, the gateway is favoured."""


class ProcessStat(NamedTuple):
    """A process that has not ended."""

    pid: int
    parent: int
    group: int
    session: int
    niceness: int
    started: int
    """In ticks since boot."""


def boot_ticks() -> int:
    """The time since boot in ticks, the unit of start times."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS)


def list_running() -> list[ProcessStat]:
    """List all processes that have not ended. Raises OSError without /proc."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 pathlib takes the spawner 5 ms to import
        if not name.isdecimal():
            continue
        try:
            state, stat = read_stat(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found.append(stat)
    return found


def read_stat(pid: int) -> tuple[str, ProcessStat]:
    """The state of a process (`Z`: a zombie) and what else is known of it. Raises FileNotFoundError or ProcessLookupError."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
    parent, group, session, niceness, started = (int(fields[index]) for index in (1, 2, 3, 16, 19))
    return fields[0].decode(), ProcessStat(pid, parent, group, session, niceness, started)


def kill_group(pid: int) -> None:
    """Send SIGKILL to a group and to the child that led it, which may have left the group."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
