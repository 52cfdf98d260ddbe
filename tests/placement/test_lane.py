"""The lane `workers` of the fixture `serve`."""

import pytest

from tests.conftest import Serve
from tests.placement.kit import Workers


@pytest.mark.parametrize("lane", ["workers"])
@pytest.mark.parametrize("path", ["/game/one", "/chat/lobby"])
async def test_the_rooms_of_most_tests_live_in_workers_that_do_not_accept(serve: Serve, path: str) -> None:
    site = await serve(game={"command": ["cat"]}, chat={"command": ["cat"]})
    player = await site.join(path)
    await player.say("hello")
    await player.hear("hello")

    assert isinstance(site, Workers)
    first, *others = site.services
    assert not first.gateway.pools["game"].rooms
    assert not first.gateway.pools["chat"].rooms
    assert sum(len(pool.rooms) for service in others for pool in service.gateway.pools.values()) == 1
