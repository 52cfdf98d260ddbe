"""The sweep over deadlines: in slices, each app at its own interval, pings spread over time."""

import asyncio
import time
from pathlib import Path

import pytest
import structlog.testing

from scalesocket.config.model import App, Site
from scalesocket.edge.audience import CLIENTS_PER_SLICE
from scalesocket.edge.keepalive import JITTER
from scalesocket.errors import BACKEND_ENDED
from scalesocket.rooms import sweep
from tests.rooms.memory import MemoryClient, Stage, play, request


async def full_room(stage: Stage, count: int) -> list[MemoryClient]:
    clients = [MemoryClient(request()) for _ in range(count)]
    for client in clients:
        assert stage.join(client) is None
    await asyncio.sleep(0.001)
    return clients


def test_pings_of_clients_that_joined_together_are_spread_over_time() -> None:
    async def scene(stage: Stage) -> None:
        clients = await full_room(stage, 1000)
        began = asyncio.get_running_loop().time()

        await asyncio.sleep(10.1)

        late = sorted(client.last_ping_at - began for client in clients)
        assert all(client.pings == 1 for client in clients)
        assert late[0] >= 10 * (1 - JITTER) - 0.1
        assert late[-1] <= 10.1 + 1.0
        steps = [sum(at <= one < at + 1.0 for one in late) for at in (8.0, 9.0)]
        assert min(steps) > 300

    play(scene, ping_interval=10.0, ping_timeout=4.0)


def test_a_ping_never_comes_later_than_the_interval_and_one_check() -> None:
    async def scene(stage: Stage) -> None:
        clients = await full_room(stage, 50)
        for _ in range(200):
            await asyncio.sleep(0.05)
            now = asyncio.get_running_loop().time()
            for client in clients:
                assert now - max(client.last_received_at, client.last_ping_at) <= 1.0 + 0.25 + 0.06
                client.last_received_at = now if client.last_ping_at > client.last_received_at else client.last_received_at

    play(scene, ping_interval=1.0, ping_timeout=1.0)


def test_a_sweep_over_many_clients_leaves_time_to_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowToPing(MemoryClient):
        def ping(self) -> None:
            clock[0] += 10e-6  # what a ping takes

    clock = [0.0]

    async def scene(stage: Stage) -> None:
        for _ in range(10_000):
            assert stage.join(SlowToPing(request())) is None
        loop = asyncio.get_running_loop()
        start = loop.time
        monkeypatch.setattr(loop, "time", lambda: start() + clock[0])
        worst = 0.0

        for _ in range(3000):
            before = clock[0]
            await asyncio.sleep(0.001)
            worst = max(worst, clock[0] - before)

        assert clock[0] > 0.09  # all were pinged
        assert worst <= sweep.SLICE + CLIENTS_PER_SLICE * 10e-6 + 1e-9

    play(scene, ping_interval=1.0, ping_timeout=100.0)


def test_a_room_that_ends_during_a_sweep_is_passed_over() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined(room="one")
        await stage.joined(room="two")
        pool = stage.gateway.pools["game"]
        checks = sweep.check_rooms(pool, asyncio.get_running_loop().time)
        next(checks)  # one of the two was checked

        for room in pool.all_rooms:
            room.stop(BACKEND_ENDED)
        await asyncio.sleep(10.0)
        assert not pool.all_rooms
        with structlog.testing.capture_logs() as events:
            for _ in checks:
                pass

        assert events == []

    play(scene)


def test_each_app_is_swept_at_its_own_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[str] = []
    check_rooms = sweep.check_rooms

    def note(pool: object, clock: object) -> object:
        swept.append(pool.app.name)  # type: ignore[attr-defined]
        return check_rooms(pool, clock)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "check_rooms", note)

    async def scene(stage: Stage) -> None:
        game = stage.gateway.site.apps["game"]
        hasty = App(name="hasty", command=("cat",), cwd=Path("/"), ping_timeout=0.1)
        stage.gateway.apply(Site(apps={"game": game, "hasty": hasty}))
        swept.clear()

        await asyncio.sleep(10.0)

        assert swept.count("game") <= 11
        assert swept.count("hasty") >= 250

    play(scene)


def test_an_edit_to_a_shorter_deadline_is_noticed_within_a_second() -> None:
    async def scene(stage: Stage) -> None:
        client = await stage.joined()
        game = stage.gateway.site.apps["game"]
        await asyncio.sleep(100.0)
        client.last_message_at = asyncio.get_running_loop().time()

        stage.gateway.apply(Site(apps={"game": game.model_copy(update={"client_idle_timeout": 0.5})}))
        await asyncio.sleep(1.8)

        assert client.closed is not None
        assert client.closed.code == 1008

    play(scene, ping_interval=3600.0, ping_timeout=3600.0)


def test_an_idle_sweep_of_ten_thousand_clients_costs_little() -> None:
    async def scene(stage: Stage) -> None:
        await full_room(stage, 10_000)
        before = time.process_time()

        await asyncio.sleep(10.0)

        assert time.process_time() - before < 1.0  # 0.15 s where it was written

    play(scene, ping_interval=3600.0)


def test_a_standstill_in_the_middle_of_a_sweep_costs_no_client_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(MemoryClient):
        @property
        def unsent(self) -> int:  # asked while a ping is unanswered
            clock[0] += sweep.SLICE / CLIENTS_PER_SLICE  # so that each few clients are a slice
            checked.append(self)
            return 0

    clock, checked = [0.0], list[Stopped]()

    async def scene(stage: Stage) -> None:
        clients = [Stopped(request()) for _ in range(CLIENTS_PER_SLICE * 4)]
        for client in clients:
            assert stage.join(client) is None
        loop = asyncio.get_running_loop()
        start = loop.time
        monkeypatch.setattr(loop, "time", lambda: start() + clock[0])
        while not all(client.pings for client in clients):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        checked.clear()
        while not checked:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.0001)
        assert len(set(checked)) < len(clients)

        clock[0] += 60.0  # as if the process had been stopped, while all pongs came
        await asyncio.sleep(0.001)
        for client in clients:  # which are read now
            client.last_received_at = loop.time()

        await asyncio.sleep(2.0)
        assert [client.closed for client in clients] == [None] * len(clients)

    play(scene, ping_interval=10.0, ping_timeout=30.0)
