"""A tail of a room of another node, over a real connection: what passes too fast is left out and counted, as locally."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import msgspec
import pytest

from scalesocket.cluster.peer_stream import open_stream
from scalesocket.cluster.requests_of_nodes import Operate, decode_request, encode
from scalesocket.control.messages import Outcome, Tail, TailEvent
from scalesocket.node.tails import NodeTail, SentTail
from scalesocket.operations import tail as tail_module
from scalesocket.workers.merged_tail import MergedTail
from scalesocket.workers.own_rooms import OwnRooms
from scalesocket.workers.site_messages import Ran, Run
from tests.cluster.nodes import Nodes, open_nodes
from tests.playing import site_of

pytestmark = pytest.mark.anyio
MESSAGES: Final = 1000
RATE: Final = 200
TAIL: Final = Operate(Tail(app="chat", room="den"), "node a")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


def send_tails(site: Nodes) -> None:
    """Let the owner of the rooms send tails of them."""
    own = OwnRooms(site.owner.service.operations.running)

    async def send_tail(payload: bytes) -> SentTail:
        request = decode_request(payload)
        assert isinstance(request, Operate)
        return SentTail(own, await own.run(Run(request.request)))

    site.owner.listener.handlers = replace(site.owner.listener.handlers, open_stream=send_tail)


async def test_what_passes_too_fast_is_left_out_and_counted_and_the_room_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "MAX_RATE", RATE)
    async with open_nodes(site_of({"chat": {"command": ["cat"]}})) as site:
        send_tails(site)
        ann = await site.join("/chat/den")
        stream = await open_stream(site.door.client, site.owner.address, encode(TAIL), timeout=5)
        assert msgspec.msgpack.decode(stream.first, type=Ran).is_done
        tail = MergedTail(Outcome(rooms=1, clients=1), [NodeTail(stream, 1, "b")])

        for number in range(MESSAGES):
            await ann.say(f"{number} {'x' * 3000}")
        await ann.hear_until(f"{MESSAGES - 1} {'x' * 3000}")
        shown, left_out = 0, 0
        async with asyncio.timeout(10):
            while shown + left_out < 2 * MESSAGES:  # each goes in and out
                for line in (await tail.read() or b"").splitlines():
                    event = msgspec.json.decode(line, type=TailEvent)
                    left_out += (event.count or 0) if event.event == "left_out" else 0
                    shown += event.event in ("in", "out")

        assert shown + left_out == 2 * MESSAGES
        assert shown >= RATE
        assert left_out > 0
        await ann.leave()
        await site.wait_no_rooms()
        async with asyncio.timeout(5):
            assert b'"ended"' in (await tail.read() or b"")
            assert await tail.read() is None
        tail.close()
        assert not site.owner.listener.streaming


async def test_a_tail_of_a_room_that_is_not_there_says_so_and_ends() -> None:
    async with open_nodes(site_of({"chat": {"command": ["cat"]}})) as site:
        send_tails(site)

        stream = await open_stream(site.door.client, site.owner.address, encode(TAIL), timeout=5)

        missing = msgspec.msgpack.decode(stream.first, type=Ran).missing
        assert missing is not None
        assert missing.text == "there is no open room 'den' of chat"
        assert await stream.read() is None
        stream.close()
