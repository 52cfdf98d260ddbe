"""Attack: kill the server and its spawner with SIGKILL at the same moment, in both orders and by one kill(1).

Prints how many programs are left after 2 s, and when the last one ended. The programs ignore SIGTERM and the end of their
input; some have children, some listen on a port, some run as another user.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from websockets.sync.client import unix_connect

from scalesocket.backends.spawner.processes import ProcessStat, list_running
from tests.cli.serving import serving

ORDERS: Final = {
    "the server first": "kill -9 {server}; kill -9 {spawner}",
    "the spawner first": "kill -9 {spawner}; kill -9 {server}",
    "both by one kill": "kill -9 {server} {spawner}",
}
ROOMS: Final = 4
"""Of each app."""
WAIT: Final = 2.0
"""Seconds after which no program may be left."""

NEST: Final = Path(__file__).parents[1] / "programs" / "nest.py"
STUBBORN: Final = "trap '' TERM HUP INT; sleep 600 & echo; while :; do sleep 600; done"
SITE: Final = f"""\
[server]
bind = "unix:socket"
control = "off"
[apps.nested]
command = ["{sys.executable}", "-IS", "{NEST}"]
[apps.listening]
command = ["{sys.executable}", "-IS", "{NEST}"]
port = "auto"
[apps.stubborn]
command = ["sh", "-c", "{STUBBORN}"]
[apps.limited]
command = ["sh", "-c", "{STUBBORN}"]
limits = {{ open_files = 64 }}
"""
AS_NOBODY: Final = f"""\
[apps.nobody]
command = ["sh", "-c", "{STUBBORN}"]
cwd = "/"
user = "nobody"
"""


@dataclass(slots=True, kw_only=True)
class Figures:
    """The outcome of some runs."""

    runs: int = 0
    programs: int = 0
    left: int = 0
    """Programs left after WAIT."""
    slowest: float = 0.0
    """Seconds from the kill to the end of the last program; WAIT if some were left."""


def attack(order: str, runs: int) -> Figures:
    """Kill a server with rooms of every kind, `runs` times."""
    figures = Figures()
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            kill_one(order, Path(folder), figures)
    return figures


def kill_one(order: str, folder: Path, figures: Figures) -> None:
    """Serve in `folder`, open the rooms, kill, and add the outcome to the figures."""
    apps = ["nested", "listening", "stubborn", "limited", *(["nobody"] if os.geteuid() == 0 else [])]
    (folder / "site.toml").write_text(SITE + (AS_NOBODY if "nobody" in apps else ""))
    with ExitStack() as stack:
        server = stack.enter_context(serving("serve", "site.toml", cwd=folder))
        for app in apps:
            for room in range(ROOMS):
                client = stack.enter_context(unix_connect(str(folder / "socket"), f"ws://localhost/{app}/{room}"))
                client.recv(timeout=10)  # all of its processes run
        spawner, programs = find_programs(server.process.pid)
        subprocess.run(ORDERS[order].format(server=server.process.pid, spawner=spawner), shell=True, check=True)
        killed_at = time.monotonic()
        left = set(programs)
        while left and time.monotonic() < killed_at + WAIT:
            time.sleep(0.005)
            left &= {each.pid for each in list_running()}
        figures.runs += 1
        figures.programs += len(programs)
        figures.left += len(left)
        figures.slowest = max(figures.slowest, time.monotonic() - killed_at)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        server.wait_ended()


def find_programs(server: int) -> tuple[int, set[int]]:
    """Find the spawner of a server, and all descendants of the spawner but the guardian."""
    processes = list_running()
    [spawner] = [each.pid for each in processes if each.parent == server]
    programs: set[int] = set()
    found = {each.pid for each in processes if each.parent == spawner and not is_guardian(each)}
    while found:
        programs |= found
        found = {each.pid for each in processes if each.parent in found}
    return spawner, programs


def is_guardian(process: ProcessStat) -> bool:
    return Path(f"/proc/{process.pid}/comm").read_text() == "room-guard\n"


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    total = 0
    for order in ORDERS:
        figures = attack(order, runs)
        total += figures.left
        print(
            f"{order:>18}, {figures.runs} runs: {figures.left} of {figures.programs} programs left after {WAIT:g} s,"
            f" the last one ended after {figures.slowest * 1000:.0f} ms"
        )
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
