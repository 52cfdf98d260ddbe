"""Three gateways in memory, as in three workers: each limit holds for all of them together."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final

import pytest

from scalesocket.config.model import Server
from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.memory import SharedMemory
from tests.auth.tokens import AUTH, bearer, token
from tests.rooms.acting import MemoryPlayer, MemoryServe, MemorySite, in_memory

CAT: Final[dict[str, Any]] = {"command": ["cat"]}
WORKERS: Final = 3


@pytest.fixture
def capacities() -> Iterator[list[SharedCapacity]]:
    with_fd = SharedMemory.create(WORKERS)
    memories = [SharedMemory.open(with_fd.fd) for _ in range(WORKERS)]
    yield [SharedCapacity(memory, worker) for worker, memory in enumerate(memories)]
    for memory in (*memories, with_fd):
        memory.close()


Capacities = list[SharedCapacity]


async def serve_all(serve: MemoryServe, capacities: Capacities, server: Server | None = None, **apps: Any) -> list[MemorySite]:
    return [await serve(server, capacity=capacity, **apps) for capacity in capacities]


async def join(sites: list[MemorySite], count: int, room: str = "/chat/{}") -> list[MemoryPlayer]:
    """Join a room of each site in turn; return who is in one."""
    players = [await site.join(room.format(number)) for number, site in zip(range(count), cycle(sites), strict=False)]
    return [player for player in players if player.closed is None]


async def closed_of(site: MemorySite, path: str = "/chat/more") -> tuple[int, str] | None:
    player = await site.join(path)
    return None if player.closed is None else (player.closed.code, player.closed.reason)


@in_memory
async def test_max_connections_of_the_server(serve: MemoryServe, capacities: Capacities) -> None:
    sites = await serve_all(serve, capacities, Server(max_connections=10), chat=CAT, game=CAT)

    players = await join(sites, 20)

    assert len(players) == 10
    assert [await closed_of(site, "/game/one") for site in sites] == [(1013, "the server is full")] * 3
    assert len({player.id for player in players}) == 10
    await players[0].leave()
    assert await closed_of(sites[2], "/game/one") is None
    assert sum(site.gateway.status().connections for site in sites) == 10
    assert sum(site.gateway.refusals["server_full"] for site in sites) == 13


@in_memory
async def test_max_connections_of_an_app(serve: MemoryServe, capacities: Capacities) -> None:
    sites = await serve_all(serve, capacities, chat={**CAT, "max_connections": 5}, game=CAT)

    players = await join(sites, 12)

    assert len(players) == 5
    assert await closed_of(sites[1]) == (1013, "the app is full")
    assert await closed_of(sites[1], "/game/one") is None


@in_memory
async def test_max_rooms(serve: MemoryServe, capacities: Capacities) -> None:
    sites = await serve_all(serve, capacities, chat={**CAT, "max_rooms": 4, "idle_timeout": 0})

    players = await join(sites, 9)

    assert len(players) == 4
    assert [await closed_of(site) for site in sites] == [(1013, "the app has no place for another room")] * 3
    await players[3].leave()
    await sites[0].until(lambda: capacities[0].open_app("chat").rooms.taken == 3)
    assert await closed_of(sites[1]) is None


@in_memory
async def test_a_client_that_its_room_refuses_takes_no_place(serve: MemoryServe, capacities: Capacities) -> None:
    sites = await serve_all(serve, capacities, Server(max_connections=3), chat={**CAT, "max_clients": 1, "max_connections": 3})
    await join(sites, 2, "/chat/one")

    for _ in range(9):
        assert await closed_of(sites[0], "/chat/one") == (1013, "the room is full")

    assert await closed_of(sites[2]) is None


@in_memory
async def test_max_connections_per_ip(serve: MemoryServe, capacities: Capacities) -> None:
    sites = await serve_all(serve, capacities, Server(max_connections_per_ip=4), chat=CAT)

    await join(sites, 4)

    assert [await site.refused("/chat/more") for site in sites] == [429] * 3


@in_memory
async def test_connect_rate(serve: MemoryServe, capacities: Capacities) -> None:
    server = Server.model_validate({"connect_rate": {"per_ip": 0.001, "burst": 5}})
    sites = await serve_all(serve, capacities, server, chat=CAT)

    await join(sites, 5)

    assert [await site.refused("/chat/more") for site in sites] == [429] * 3


@in_memory
async def test_room_rate(serve: MemoryServe, capacities: Capacities) -> None:
    sites = await serve_all(serve, capacities, chat={**CAT, "room_rate": {"total": 0.001, "burst": 5}})

    assert len(await join(sites, 9)) == 5


@in_memory
async def test_failed_attempts(serve: MemoryServe, capacities: Capacities) -> None:
    auth = {**AUTH, "failures": {"limit": 4, "per": "1h"}}
    sites = await serve_all(serve, capacities, chat={**CAT, "auth": auth})

    wrong = [
        await site.refused("/chat/one", additional_headers=bearer(token(secret="w" * 32)))
        for _, site in zip(range(6), cycle(sites), strict=False)
    ]

    assert wrong == [401] * 4 + [429] * 2
    assert [await site.refused("/chat/one", additional_headers=bearer(token())) for site in sites] == [429] * 3


@in_memory
async def test_a_removed_app_gives_its_places_back(serve: MemoryServe, capacities: Capacities) -> None:
    sites = await serve_all(serve, capacities, chat={**CAT, "max_connections": 3}, game=CAT)
    await join(sites, 3)
    both = sites[0].gateway.site
    without = both.model_copy(update={"apps": {"game": both.apps["game"]}})

    for site in sites:
        site.gateway.apply(without)
        await site.until(lambda site=site: not site.gateway.find_all_pools()[1:])  # type: ignore[misc]
    for site in sites:
        site.gateway.apply(both)

    assert len(await join(sites, 6)) == 3
