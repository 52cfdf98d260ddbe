"""A connection that is handed over behaves as one that its owner has accepted."""

import pytest

from tests.placement.conftest import ServeWorkers
from tests.playing import Lane

CAT = {"command": ["cat"]}


@pytest.mark.parametrize("lane", ["express", "general"])
async def test_clients_share_a_room_of_another_worker(serve_workers: ServeWorkers, lane: Lane) -> None:
    site = await serve_workers(chat=CAT, lane=lane)
    room = site.name("chat", 1)

    ann, bob = await site.join(f"/chat/{room}"), await site.join(f"/chat/{room}")
    await ann.say("hello")

    await ann.hear("hello")
    await bob.hear("hello")
    assert [len(service.gateway.pools["chat"].rooms) for service in site.services] == [0, 1, 0]
    await ann.leave(4000, "bye")
    await bob.leave()
    await site.wait_no_rooms()
    if lane == "express":
        assert [service.connections.transports for service in site.services] == [set(), set(), set()]
    assert site.gateway.connections == 0
