"""Repeated edits of one app close no client of another app and lose none of its messages."""

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
"""Seconds for each wait at the end, on a busy machine."""

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
class SteadyClient:
    """A client of the app that is not edited. Each client of a room sends numbers, counting up from 0."""

    name: str
    connection: ClientConnection
    sent: int = 0
    received: Counter[str] = field(default_factory=Counter)
    """How many numbers were received from each client, all in order."""

    async def send_numbers(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.connection.send(f"{self.name} {self.sent}")
            self.sent += 1
            await wait_or(stop, INTERVAL)

    async def listen(self) -> None:
        async for message in self.connection:
            name, _, number = str(message).partition(" ")
            assert int(number) == self.received[name], f"{self.name} received {message!r} after {self.received[name]} of {name}"
            self.received[name] += 1


@dataclass
class ReturningClient:
    """A client of the edited app: it is closed when the app is removed, and reconnects when it is added again."""

    path: str
    closes: Counter[int] = field(default_factory=Counter)
    refusals: Counter[int] = field(default_factory=Counter)

    async def reconnect(self, port: int, stop: asyncio.Event) -> None:
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
            await connection.send(message := f"{id(self)} {number}")
            async with asyncio.timeout(DEADLINE):
                while await connection.recv() != message:  # also the messages of others
                    pass
            if await wait_or(stop, INTERVAL / 4):
                return


async def wait_or(stop: asyncio.Event, seconds: float) -> bool:
    """Wait at most `seconds` for `stop`; whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


@contextlib.asynccontextmanager
async def sending(port: int, count: int) -> AsyncIterator[list[SteadyClient]]:
    """Let `count` clients send in rooms of ROOM_SIZE; at the end each has received all messages, and none was closed."""
    stop = asyncio.Event()
    senders = []
    for number in range(count):
        url = f"ws://127.0.0.1:{port}/steady/room-{number // ROOM_SIZE}"
        senders.append(SteadyClient(f"t{number}", await connect(url, compression=None, ping_interval=None)))
    listening = [asyncio.create_task(sender.listen()) for sender in senders]
    try:
        async with asyncio.TaskGroup() as tasks:
            for sender in senders:
                tasks.create_task(sender.send_numbers(stop))
            try:
                yield senders
            finally:
                stop.set()
        async with asyncio.timeout(DEADLINE):
            while not all_received(senders):
                for task in listening:
                    assert not task.done(), task.result()
                await asyncio.sleep(0.05)
    finally:
        for task in listening:
            task.cancel()
        for sender in senders:
            await sender.connection.close()


def all_received(senders: list[SteadyClient]) -> bool:
    rooms = [senders[first : first + ROOM_SIZE] for first in range(0, len(senders), ROOM_SIZE)]
    return all(receiver.received[sender.name] == sender.sent for room in rooms for receiver in room for sender in room)


def fetch_status(file: Path) -> SiteStatus:
    return send_request(control_paths("auto", file), Status(), SiteStatus)


def steady_pids(file: Path) -> dict[str, int | None]:
    return {room.name: room.pid for app in fetch_status(file).apps if app.name == "steady" for room in app.rooms}


def count_fds(pid: int | str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(server: Serving) -> int:
    """The server's memory in bytes."""
    words = Path(f"/proc/{server.process.pid}/statm").read_text().split()
    return int(words[1]) * 4096


async def edit(file: Path, server: Serving, edits: int) -> AsyncIterator[int]:
    """Edit the file `edits` times, each time after the previous edit was applied or refused; yield the number of each."""
    counts: Counter[str] = Counter()
    for number, (kind, text) in zip(range(1, edits + 1), itertools.cycle(CYCLE.items()), strict=False):
        text_logged = "not reloaded" if kind == "broken" else "INFO     reloaded"
        counts[text_logged] += 1
        write(file, text)
        await asyncio.to_thread(server.wait_output, text_logged, counts[text_logged])
        await asyncio.sleep(PAUSE)
        yield number


async def play(folder: Path, *, clients: int, edits: int, warm_up: int) -> None:
    """Edit one app `edits` times while each of both has `clients`; check for lost messages, closes and leaks."""
    file = folder / "site.toml"
    file.write_text(HEAD + STEADY)
    with serving("serve", str(file)) as server:
        port, stop = server.port, asyncio.Event()
        returning = [ReturningClient(f"/edited/room-{number // ROOM_SIZE}") for number in range(clients)]
        async with sending(port, clients) as senders, asyncio.TaskGroup() as tasks:
            while None in (pids := await asyncio.to_thread(steady_pids, file)).values():  # noqa: ASYNC110
                await asyncio.sleep(PAUSE)
            for client in returning:
                tasks.create_task(client.reconnect(port, stop))
            before = 0
            async for number in edit(file, server, edits):
                if number == warm_up:
                    before = resident(server)
            stop.set()

            assert await asyncio.to_thread(steady_pids, file) == pids
            assert len(pids) == -(-clients // ROOM_SIZE)
        assert min(sender.sent for sender in senders) > 1
        closes = sum((client.closes for client in returning), Counter[int]())
        refusals = sum((client.refusals for client in returning), Counter[int]())
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


async def test_edits_leak_no_descriptors_and_no_tasks(tmp_path: Path) -> None:
    async with open_edited(tmp_path / "site.toml", CYCLE["removed"], is_watching=False) as edited:

        async def play_cycles(count: int) -> None:
            for text in list(CYCLE.values()) * count:
                edited.write(text)
                with contextlib.suppress(Exception):
                    await edited.reloader.reload("test")
                if "edited" in edited.gateway.pools:
                    await (await edited.playground.join("/edited/lobby")).leave()
            await edited.playground.wait_no_rooms()

        await play_cycles(1)
        descriptors, tasks = count_fds("self"), len(asyncio.all_tasks())
        await play_cycles(4)

        # Some tasks end only after the rooms.
        await edited.playground.until(lambda: count_fds("self") <= descriptors and len(asyncio.all_tasks()) <= tasks)
