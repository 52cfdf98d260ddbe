"""How connections that were handed over end: slow clients, drains and cuts."""

import asyncio

import pytest

from tests.placement.conftest import ServeWorkers
from tests.placement.ways import CAT, Way, every_way, is_idle, join_by, passing, serve_way, wait_idle
from tests.playing import program


@every_way
async def test_a_client_that_reads_slowly_gets_everything(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, game={"command": program("alarm", 2_000, 500), "slow_client": "block"})
    ann = await join_by(site, way, f"/game/{site.name('game')}", serve_workers.folder, receive_buffer=4096)

    await ann.say("go")

    for number in range(2_000):
        assert int(str(await ann.listen()).split()[0]) == number


@pytest.mark.parametrize("way", ["pump", "relay"])
async def test_a_client_that_takes_nothing_is_cut(serve_workers: ServeWorkers, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.server.closing.CLOSE_TIMEOUT", 0.1)
    app = {
        "command": program("alarm", 20_000, 500),
        "slow_client": "close",
        "send_buffer": 64 * 1024,
        "stall_timeout": 0.3,
        "stop_timeout": 0.1,
    }
    site = await serve_way(serve_workers, way, game=app)
    ann = await join_by(site, way, f"/game/{site.name('game')}", serve_workers.folder, receive_buffer=4096)

    await ann.say("go")

    await site.wait_no_rooms()
    await site.until(lambda: all(map(is_idle, site.services)), within=20)
    assert (await ann.wait_closed())[0] in (1006, 1013)


@pytest.mark.parametrize("way", ["pump", "relay"])
async def test_a_worker_that_drains_closes_what_passes_through_it(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    room = site.name("chat")
    ann = await join_by(site, way, f"/chat/{room}", serve_workers.folder)
    await ann.say("hello")
    await ann.hear("hello")

    async with asyncio.timeout(5):
        await site.services[0].drain()

    assert await ann.wait_closed() == (1012, "this worker of the server is replaced: connect again")
    assert passing(site) == [0, 0, 0]
    await site.until(lambda: room not in site.gateway.pools["chat"].rooms)


@every_way
async def test_a_drain_of_all_workers_closes_everyone_with_1001(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    paths = [f"/chat/{site.name('chat', worker)}" for worker in (0, 1, 2)]
    players = [await join_by(site, way, path, serve_workers.folder) for path in paths]

    async with asyncio.timeout(5):
        await site.service.drain()

    assert [await player.wait_closed() for player in players] == [(1001, "the server is shutting down")] * 3


@every_way
async def test_a_cut_ends_what_passes_through(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
    await ann.say("hello")
    await ann.hear("hello")

    site.service.cut()

    assert (await ann.wait_closed())[0] in (1001, 1006)
    await wait_idle(site)
