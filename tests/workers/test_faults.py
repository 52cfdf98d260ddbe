"""Each process of a server of several workers is stopped and killed in turn, while clients play in the rooms of all workers."""

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mode
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.workers.serving import Site, children, serving_workers, wait_none

ROOMS: Final = 12
PERIOD: Final = 0.01
"""Seconds between two messages of a client."""
STOPPED: Final = 0.2
"""Seconds for which a process is stopped."""


class Visitor:
    """A client that numbers its messages and gets each of them back in order, and that comes back when it was disconnected."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.program = 0
        """The pid of the program of its room."""
        self.echoes = 0
        self.closes: list[int] = []
        self.faults: list[str] = []

    async def run(self, port: int) -> None:
        while True:
            try:
                async with connect(f"ws://127.0.0.1:{port}/chat/{self.room}", open_timeout=20, close_timeout=1) as connection:
                    self.program = int(await connection.recv())
                    for number in itertools.count():
                        await connection.send(str(number))
                        async with asyncio.timeout(10):
                            if (text := await connection.recv()) != str(number):
                                self.faults.append(f"{self.room}: {text!r} instead of {number}")
                        self.echoes += 1
                        await asyncio.sleep(PERIOD)
            except ConnectionClosed as closed:
                self.closes.append(closed.rcvd.code if closed.rcvd is not None else 1006)
            except (OSError, InvalidHandshake):
                await asyncio.sleep(PERIOD)
            except (TimeoutError, ValueError) as error:
                self.faults.append(f"{self.room}: {error!r}")


class Load:
    """Visitors in rooms of all workers, which play in a thread of their own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.visitors = [Visitor(f"room{number}") for number in range(ROOMS)]

    async def run(self, has_ended: asyncio.Event) -> None:
        tasks = [asyncio.create_task(visitor.run(self.site.server.port)) for visitor in self.visitors]
        await has_ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wait_playing(self, visitors: list[Visitor] | None = None) -> None:
        """Wait until each of these clients, or of all, has had three more messages."""
        goals = [(visitor, visitor.echoes + 3) for visitor in visitors or self.visitors]
        self.site.wait(lambda: all(visitor.echoes >= goal for visitor, goal in goals), "all clients play")


@contextmanager
def playing(site: Site) -> Iterator[Load]:
    """Play while the block runs."""
    load, has_ended = Load(site), asyncio.Event()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(load.run(has_ended),))
        thread.start()
        try:
            load.wait_playing()
            yield load
        finally:
            loop.call_soon_threadsafe(has_ended.set)
            thread.join()


def helpers_of(worker: int) -> tuple[int, int]:
    """The pids of the spawner of a worker, and of its guardian."""
    (spawner,) = (pid for pid in children(worker) if b"/spawner/main.py" in read_command(pid))
    (guardian,) = (pid for pid in children(spawner) if read_command(pid).startswith(b"room guard"))
    return spawner, guardian


def read_command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_each_process_may_be_stopped_or_killed_under_load_and_only_clients_of_a_killed_worker_notice(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site, playing(site) as load:
        owners = {visitor: site.owner_of(visitor.program) for visitor in load.visitors}
        stopped = min(range(site.count), key=list(owners.values()).count)  # others have rooms, wherever this start puts them
        elsewhere = [visitor for visitor, owner in owners.items() if owner != stopped]
        closes: dict[Visitor, list[int]] = {visitor: [] for visitor in owners}

        def check() -> None:
            assert {visitor: visitor.closes for visitor in owners} == closes
            assert not [fault for visitor in owners for fault in visitor.faults]

        for pid in (site.pid, *helpers_of(site.workers[stopped]), site.workers[stopped]):
            os.kill(pid, signal.SIGSTOP)
            load.wait_playing(elsewhere if pid == site.workers[stopped] else None)
            time.sleep(STOPPED)
            os.kill(pid, signal.SIGCONT)
            load.wait_playing()
            check()

        for index in (0, 1):
            spawner, guardian = helpers_of(site.workers[index])
            for pid in (guardian, spawner):
                os.kill(pid, signal.SIGKILL)
                load.wait_playing()
                check()
            worker = site.workers[index]
            os.kill(worker, signal.SIGKILL)
            site.wait_replaced(index, worker)
            load.wait_playing()
            for visitor, owner in owners.items():
                if owner == index:
                    closes[visitor].append(1006)
            check()

        family = site.family
        os.kill(site.pid, signal.SIGKILL)
        site.server.wait_ended()
        wait_none(family)


def test_clients_that_wait_for_a_stopped_worker_are_served_by_its_successor_with_all_that_they_have_sent(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site:
        first = {room: site.join(room) for room in (f"room{number}" for number in range(ROOMS))}
        owners = {room: site.owner_of(player.read_pid()) for room, player in first.items()}
        busiest = mode(owners.values())
        rooms, worker = [room for room in owners if owners[room] == busiest], site.workers[busiest]
        os.kill(worker, signal.SIGSTOP)
        waiting = [site.join(room) for room in rooms for _ in range(3)]
        for number, player in enumerate(waiting):
            for part in "abc":
                player.connection.send(f"{number}{part}")

        os.kill(worker, signal.SIGKILL)

        for number, player in enumerate(waiting):
            own = [f"{number}{part}" for part in "abc"]
            heard: list[str] = []
            while len(heard) < len(own):
                text = player.read()
                heard += [text] if text in own else []
            assert heard == own
        assert {first[room].wait_closed() for room in rooms} == {1006}
