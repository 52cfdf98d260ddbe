"""What clients see when the server loses its lease of the rooms."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from scalesocket.backends.kill_deadline import boottime
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.errors import LEASE_LOST
from scalesocket.server.service import open_service
from tests.playing import Playground, program, site_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def target() -> AsyncIterator[str]:
    """A server for a room, which ends a connection when its other end does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield "{}:{}".format(*server.sockets[0].getsockname())
    server.close()


@pytest.mark.parametrize("is_stopped", [False, True], ids=["running", "stopped"])
async def test_every_client_is_closed_with_1012_and_a_room_opens_again_with_the_next_lease(
    target: str, *, is_stopped: bool
) -> None:
    site = site_of(
        {
            "stdio": {"command": ["cat"], "restart": "always"},
            "port": {"command": program("tcp"), "port": "auto"},
            "target": {"tcp": target},
        }
    )
    spawner = SpawnerClient()
    spawner.start()
    async with open_service(site, spawner=spawner) as service:
        playground = Playground(service, "express")
        clients = [await playground.join(f"/{app}/one") for app in site.apps for _ in range(2)]
        await playground.until(lambda: all(pool.rooms["one"].state.name == "OPEN" for pool in service.gateway.pools.values()))

        spawner.set_deadline(boottime() + 0.2)
        if is_stopped:
            time.sleep(0.4)  # noqa: ASYNC251 the event loop finds all that happened meanwhile

        for client in clients:
            assert await client.wait_closed() == (LEASE_LOST.code, LEASE_LOST.reason)
        await playground.wait_no_rooms()
        assert [app.backend_crashes for app in service.gateway.status().apps] == [0, 0, 0]
        spawner.set_deadline(boottime() + 60)
        async with await playground.join("/stdio/one") as again:
            await again.say("hello")
            await again.hear("hello")
        await playground.wait_no_rooms()
    assert not spawner.groups
    spawner.close()
