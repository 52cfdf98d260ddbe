"""The end of a site: what it waits for, whoever hurries it."""

import asyncio

import pytest

from scalesocket.backends.launcher import Spawner
from scalesocket.server.service import open_service
from tests.playing import Playground, program, site_of

pytestmark = pytest.mark.anyio


async def test_a_site_that_is_cancelled_again_and_again_waits_for_its_backends() -> None:
    site = site_of({"game": {"command": program("stubborn"), "stop_timeout": 0.5}})
    spawner = Spawner()
    spawner.start()
    is_open = asyncio.Event()

    async def play() -> None:
        async with open_service(site, spawner=spawner) as service:
            ann = await Playground(service, "express").join("/game/one")
            await ann.hear("stubborn")
            is_open.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(play())
    try:
        await is_open.wait()
        while not serving.done():
            serving.cancel()
            await asyncio.wait((serving,), timeout=0.1)
        assert not spawner.groups
    finally:
        spawner.close()
