"""Clients of a room share one backend."""

import pytest

from tests.conftest import Serve
from tests.rooms.acting import MemoryServe, in_memory


@pytest.mark.every_combination
async def test_clients_of_a_room_receive_each_others_messages(serve: Serve) -> None:
    site = await serve(chat={"command": ["cat"]})
    ann = await site.join("/chat/lobby")
    bob = await site.join("/chat/lobby")

    await ann.say("hello")

    await ann.hear("hello")
    await bob.hear("hello")


@in_memory
async def test_rooms_do_not_receive_each_others_messages(serve: MemoryServe) -> None:
    site = await serve(chat={"command": ["cat"]})
    ann = await site.join("/chat/lobby")
    eve = await site.join("/chat/cellar")

    await ann.say("hello")

    await ann.hear("hello")
    await eve.hear_nothing()


@in_memory
async def test_a_room_has_one_process_however_many_clients_it_has(serve: MemoryServe) -> None:
    site = await serve(chat={"command": ["cat"]})
    players = [await site.join("/chat/lobby") for _ in range(5)]

    await players[0].say("here")
    for player in players:
        await player.hear("here")

    assert site.gateway.pools["chat"].status().backend_starts == 1
