"""Rooms in memory: clients and backends without sockets and processes, on a loop of virtual time.

A test decides what happens in which order, and never waits.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from scalesocket.admission.control import Admission
from scalesocket.backends.backend import Exit, Receiver
from scalesocket.config.model import App, Site
from scalesocket.edge.client import Client
from scalesocket.errors import Close
from scalesocket.gateway import Gateway
from scalesocket.rooms.room import Room
from scalesocket.rooms.sweep import Sweep
from scalesocket.wire.batch import Batch
from scalesocket.wire.handshake import Request, parse_request

T = TypeVar("T")

HIGH_WATER: Final = 256 * 1024


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to its next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__()
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            events = select(0)
            if not events:
                assert timeout is not None, "nothing will ever happen any more"
                self._now += timeout
            return events

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now


def run_virtual(scene: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a scene on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scene())


def request(path: str = "/game/one", peer: tuple[str, int] | None = ("192.0.2.1", 4321)) -> Request:
    return parse_request(f"GET {path} HTTP/1.1\r\nHost: x".encode(), peer=peer, local=None, is_secure=False)


class MemoryClient(Client):
    """A client whose peer takes what the test says: everything at once, unless `reads` is set to a number of bytes."""

    def __init__(self, its_request: Request, *, reads: float = float("inf"), now: float | None = None) -> None:
        super().__init__(its_request, asyncio.get_running_loop().time() if now is None else now)
        self.heard: list[bytes] = []
        self.closed: Close | None = None
        self.was_aborted = False
        self.pings = 0
        self.is_reading = True
        self.app: App | None = None
        self._reads = reads
        self._unsent = 0
        self._taken = 0

    def send(self, batch: Batch) -> None:
        self.heard.extend(batch.payloads)
        if self._reads == float("inf"):
            return
        self._unsent += sum(map(len, batch.payloads))
        if self._unsent > HIGH_WATER and not self.is_congested:
            self.room.congested(self)

    def take(self, count: int) -> None:
        """Let the peer take so many bytes."""
        self._taken += min(count, self._unsent)
        self._unsent -= min(count, self._unsent)
        if self._unsent <= HIGH_WATER // 4 and self.is_congested:
            self.room.drained(self)

    def close(self, close: Close) -> None:
        self.closed = self.closed or close

    def abort(self) -> None:
        self.was_aborted = True

    def ping(self) -> None:
        self.pings += 1

    def apply(self, app: App) -> None:
        self.app = app

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    @property
    def unsent(self) -> int:
        return self._unsent

    @property
    def backlog(self) -> int:
        return self._unsent

    @property
    def delivered(self) -> int:
        return self._taken


class MemoryBackend:
    """A backend that takes all input, and prints what the test says. `say` needs somebody who reads; `floods` never ends."""

    pid = None

    def __init__(self, receiver: Receiver, *, floods: bytes = b"") -> None:
        self.receiver = receiver
        self.taken = b""
        self.unsent = 0
        self.is_read = True
        self._floods = floods
        self._printed = 0
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        if floods:
            asyncio.get_running_loop().call_later(0.001, self._flood)

    def say(self, chunk: bytes) -> None:
        self._printed += len(chunk)
        self.receiver.backend_output(chunk)

    def end(self, status: int = 0) -> None:
        if not self._exit.done():
            self._exit.set_result(Exit(status=status))

    def _flood(self) -> None:
        """Print a read's worth each millisecond, unless nobody reads."""
        if self._exit.done():
            return
        if self.is_read:
            self.say(self._floods)
        asyncio.get_running_loop().call_later(0.001, self._flood)

    @property
    def output(self) -> tuple[int, int]:
        return self._printed, len(self._floods)

    def write(self, records: bytes) -> bool:
        self.taken += records
        return True

    def reclaim(self) -> list[bytes]:
        return []

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    async def wait_exit(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def wait_drained(self) -> None:
        return

    async def stop(self, *, signal: int, timeout: float) -> Exit:
        self.end()
        return self._exit.result()


class Stage:
    """A gateway whose rooms are in memory. `await Stage.run(scene, game={…})` runs `scene(stage)` to its end."""

    def __init__(self, gateway: Gateway, backends: list[MemoryBackend]) -> None:
        self.gateway = gateway
        self.backends = backends
        """In the order they were opened."""

    def join(self, client: MemoryClient, app: str = "game", room: str = "one") -> Close | None:
        admission = Admission(self.gateway.site.apps[app], room, request(f"/{app}/{room}", client.peer), self.gateway.admission)
        return admission.join(client)

    async def joined(self, *, reads: float = float("inf"), room: str = "one") -> MemoryClient:
        """A client that is in a room whose backend runs."""
        client = MemoryClient(request(f"/game/{room}"), reads=reads)
        assert self.join(client, room=room) is None
        await asyncio.sleep(0.001)
        return client

    def room(self, name: str = "one", app: str = "game") -> Room:
        return self.gateway.pools[app].rooms[name]


def site_of(**settings: Any) -> Site:
    return Site(apps={"game": App(name="game", command=("cat",), cwd=Path("/"), **settings)})


def play(scene: Callable[[Stage], Coroutine[Any, Any, T]], *, floods: bytes = b"", **settings: Any) -> T:
    """Run a scene in a site with one app, `game`, whose backends flood with these bytes."""

    async def run() -> T:
        backends: list[MemoryBackend] = []

        async def open_backend(app: App, env: Mapping[str, str], room: str, receiver: Receiver) -> MemoryBackend:
            await asyncio.sleep(0)
            backends.append(MemoryBackend(receiver, floods=floods))
            return backends[-1]

        async with anyio.create_task_group() as tasks:
            gateway = Gateway(site_of(**settings), open_backend=open_backend, tasks=tasks)
            tasks.start_soon(Sweep(gateway.find_all_pools).run)
            try:
                return await scene(Stage(gateway, backends))
            finally:
                gateway.cut()
                await gateway.wait_ended()
                tasks.cancel_scope.cancel()

    return run_virtual(run)
