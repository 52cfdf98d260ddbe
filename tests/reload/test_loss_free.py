"""An app plays on, without a close and without losing a message, while the app beside it is edited over and over."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from scalesocket.control.address import control_paths
from scalesocket.control.client import send_request
from scalesocket.control.messages import Status
from scalesocket.status import SiteStatus
from tests.cli.serving import Serving, serving
from tests.reload.editing import SERVER, open_edited, write

ROOM_SIZE: Final = 4
INTERVAL: Final = 1.0
"""Seconds between two messages of one client."""
PAUSE: Final = 0.1
"""Seconds between an edit that is applied and the next."""
DEADLINE: Final = 30.0
"""Seconds for whatever is waited for at the end, on a busy machine."""

HEAD: Final = SERVER.replace('control = "off"\n', 'drain_timeout = "500ms"\n')
STEADY: Final = '[apps.steady]\ncommand = ["cat"]\n'
EDITED: Final = '[apps.edited]\ncommand = ["cat"]\n'
CYCLE: Final = {
    "added": HEAD + STEADY + EDITED,
    "changed": HEAD + STEADY + EDITED + 'max_clients = 100\nenv = { A = "1" }\n',
    "broken": HEAD + STEADY + EDITED + 'routing = "jsn"\n',
    "removed": HEAD + STEADY,
}


@dataclass
class Talker:
    """A client of the app that is left alone. All in its room say numbers, each counting up from 0."""

    name: str
    connection: ClientConnection
    said: int = 0
    heard: Counter[str] = field(default_factory=Counter)
    """How many numbers came from whom; each was the next one."""

    async def talk(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.connection.send(f"{self.name} {self.said}")
            self.said += 1
            await wait_or(stop, INTERVAL)

    async def listen(self) -> None:
        async for message in self.connection:
            name, _, number = str(message).partition(" ")
            assert int(number) == self.heard[name], f"{self.name} heard {message!r} after {self.heard[name]} of {name}"
            self.heard[name] += 1


@dataclass
class Passerby:
    """A client of the app that is edited: it is sent away when the app goes, and comes back with it."""

    path: str
    closes: Counter[int] = field(default_factory=Counter)
    refusals: Counter[int] = field(default_factory=Counter)

    async def pass_by(self, port: int, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with connect(f"ws://127.0.0.1:{port}{self.path}", compression=None, ping_interval=None) as connection:
                    await self.play(connection, stop)
            except websockets.InvalidStatus as refused:
                self.refusals[refused.response.status_code] += 1
            except websockets.ConnectionClosed as closed:
                self.closes[closed.rcvd.code if closed.rcvd is not None else 1006] += 1
            await wait_or(stop, INTERVAL / 4)

    async def play(self, connection: ClientConnection, stop: asyncio.Event) -> None:
        for number in itertools.count():
            await connection.send(said := f"{id(self)} {number}")
            async with asyncio.timeout(DEADLINE):
                while await connection.recv() != said:  # the others' words must be read as well, or reading stops
                    pass
            if await wait_or(stop, INTERVAL / 4):
                return


async def wait_or(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until it is time to stop, but no longer than so many seconds; whether it is time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


@contextlib.asynccontextmanager
async def talking(port: int, count: int) -> AsyncIterator[list[Talker]]:
    """Have `count` clients talk in rooms of ROOM_SIZE; at the end all have heard all that was said, and nobody was closed."""
    stop = asyncio.Event()
    talkers = []
    for number in range(count):
        url = f"ws://127.0.0.1:{port}/steady/room-{number // ROOM_SIZE}"
        talkers.append(Talker(f"t{number}", await connect(url, compression=None, ping_interval=None)))
    listening = [asyncio.create_task(talker.listen()) for talker in talkers]
    try:
        async with asyncio.TaskGroup() as tasks:
            for talker in talkers:
                tasks.create_task(talker.talk(stop))
            try:
                yield talkers
            finally:
                stop.set()
        async with asyncio.timeout(DEADLINE):
            while not all_heard(talkers):
                for task in listening:
                    assert not task.done(), task.result()
                await asyncio.sleep(0.05)
    finally:
        for task in listening:
            task.cancel()
        for talker in talkers:
            await talker.connection.close()


def all_heard(talkers: list[Talker]) -> bool:
    rooms = [talkers[first : first + ROOM_SIZE] for first in range(0, len(talkers), ROOM_SIZE)]
    return all(listener.heard[speaker.name] == speaker.said for room in rooms for listener in room for speaker in room)


def fetch_status(file: Path) -> SiteStatus:
    status = send_request(control_paths("auto", file), Status()).status
    assert status is not None
    return status


def steady_pids(file: Path) -> dict[str, int | None]:
    return {room.name: room.pid for app in fetch_status(file).apps if app.name == "steady" for room in app.rooms}


def count_fds(pid: int | str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(server: Serving) -> int:
    """The server's memory in bytes."""
    words = Path(f"/proc/{server.process.pid}/statm").read_text().split()
    return int(words[1]) * 4096


async def edit(file: Path, server: Serving, edits: int) -> AsyncIterator[int]:
    """Edit the file so many times, each once the one before was applied or refused; tell how many it were."""
    told: Counter[str] = Counter()
    for number, (kind, text) in zip(range(1, edits + 1), itertools.cycle(CYCLE.items()), strict=False):
        words = "not reloaded" if kind == "broken" else "INFO     reloaded"
        told[words] += 1
        write(file, text)
        await asyncio.to_thread(server.wait_output, words, told[words])
        await asyncio.sleep(PAUSE)
        yield number


async def play(folder: Path, *, clients: int, edits: int, warm_up: int) -> None:
    """Edit one app `edits` times while `clients` play each of the two, and count what was lost and what was left."""
    file = folder / "site.toml"
    file.write_text(HEAD + STEADY)
    with serving("serve", str(file)) as server:
        port, stop = server.port, asyncio.Event()
        passersby = [Passerby(f"/edited/room-{number // ROOM_SIZE}") for number in range(clients)]
        async with talking(port, clients) as talkers, asyncio.TaskGroup() as tasks:
            while None in (pids := await asyncio.to_thread(steady_pids, file)).values():  # noqa: ASYNC110
                await asyncio.sleep(PAUSE)
            for passerby in passersby:
                tasks.create_task(passerby.pass_by(port, stop))
            before = 0
            async for number in edit(file, server, edits):
                if number == warm_up:
                    before = resident(server)
            stop.set()

            assert await asyncio.to_thread(steady_pids, file) == pids
            assert len(pids) == -(-clients // ROOM_SIZE)
        assert min(talker.said for talker in talkers) > 1
        closes = sum((passerby.closes for passerby in passersby), Counter[int]())
        refusals = sum((passerby.refusals for passerby in passersby), Counter[int]())
        assert set(closes) == {1001}, server.output
        assert set(refusals) == {404}
        assert resident(server) - before < 16 * 1024 * 1024

        assert (await asyncio.to_thread(fetch_status, file)).generation == edits - edits // len(CYCLE) + 1


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_the_app_beside_the_edited_one_loses_nothing(tmp_path: Path) -> None:
    await play(tmp_path, clients=40, edits=8, warm_up=4)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_hundred_edits_beside_five_hundred_clients_lose_nothing(tmp_path: Path) -> None:
    await play(tmp_path, clients=500, edits=100, warm_up=40)


async def test_edits_leave_no_descriptors_and_no_tasks_behind(tmp_path: Path) -> None:
    async with open_edited(tmp_path / "site.toml", CYCLE["removed"], is_watching=False) as edited:

        async def play_a_cycle(cycles: int) -> tuple[int, int]:
            for text in list(CYCLE.values()) * cycles:
                edited.write(text)
                with contextlib.suppress(Exception):
                    await edited.reloader.reload("test")
                if "edited" in edited.gateway.pools:
                    await (await edited.playground.join("/edited/lobby")).leave()
            await edited.playground.wait_no_rooms()
            return count_fds("self"), len(asyncio.all_tasks())

        first = await play_a_cycle(1)
        last = await play_a_cycle(4)

        assert last == first
