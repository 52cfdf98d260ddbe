"""Tails: what they show, what they leave out, and that a room does not notice them."""

import asyncio
from contextlib import closing
from typing import Any, Final

import msgspec
import pytest

from scalesocket.control.messages import Outcome, Say, Stop, Tail, TailEvent
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.operations.running import Running
from scalesocket.operations.table import MAX_TAILS, Operations, Tailing
from scalesocket.operations.tail import MAX_PAYLOAD, MAX_QUEUED, MAX_RATE, OVERHEAD
from scalesocket.wire.frames import Opcode
from tests.operations.operating import CALLER, run
from tests.rooms.acting import MemoryPlayer, MemoryServe, in_memory

CAT: Final[dict[str, Any]] = {"command": ["cat"]}
MUTE: Final[dict[str, Any]] = {"command": ["mute"]}
ALL: Final = Tail(app="game", room="*")


async def read(tail: Tailing, count: int) -> list[TailEvent]:
    """The next events; there must be no more."""
    events: list[TailEvent] = []
    async with asyncio.timeout(10):
        while len(events) < count:
            lines = await tail.read()
            assert lines is not None
            events += [msgspec.json.decode(line, type=TailEvent) for line in lines.splitlines()]
    assert len(events) == count, [(event.event, event.count) for event in events[-4:]]
    return events


async def ready(player: MemoryPlayer) -> None:
    await player.say("ready")
    await player.hear("ready")


@in_memory
async def test_a_tail_shows_what_a_room_receives_and_sends(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    ann, bob = await site.join("/game/one"), await site.join("/game/two")
    await ready(ann)
    await ready(bob)

    with closing(await Operations(Running(site.gateway)).open_tail(Tail(app="game", room="one"), CALLER)) as tail:
        assert tail.outcome == Outcome(rooms=1, clients=1)
        await bob.say("elsewhere")
        await ann.say("hello")
        await ann.hear("hello")
        received, sent = await read(tail, 2)

    shown = [(event.event, event.app, event.room, event.client, event.to, event.text, event.size) for event in (received, sent)]
    assert shown == [("in", "game", "one", ann.id, None, "hello", 5), ("out", "game", "one", None, None, "hello", 5)]
    assert not received.is_truncated
    (logged,) = serve.logged("operation")
    assert (logged["operation"], logged["asked_by"]) == ("tail", "control socket, uid 0, pid 1")


@in_memory
async def test_a_tail_shows_recipients(serve: MemoryServe) -> None:
    site = await serve(game={**MUTE, "routing": "json"})
    await site.join("/game/one")

    with closing(await Operations(Running(site.gateway)).open_tail(ALL, CALLER)) as tail:
        for text in ('{"_to":[7,5]}', '{"_except":5}'):
            await run(site, Say(app="game", room="one", text=text))
        to, exclude = await read(tail, 2)

    assert (to.to, to.exclude) == ((5, 7), None)
    assert (exclude.to, exclude.exclude) == (None, (5,))


@in_memory
async def test_binary_messages_are_base64_and_long_ones_are_cut_between_characters(serve: MemoryServe) -> None:
    site = await serve(game={**MUTE, "binary": True}, chat={**MUTE, "max_message": 1_000_000})
    ann, bob = await site.join("/game/one"), await site.join("/chat/one")
    operations = Operations(Running(site.gateway))

    with (
        closing(await operations.open_tail(ALL, CALLER)) as binary,
        closing(await operations.open_tail(Tail(app="chat", room="one"), CALLER)) as text,
    ):
        await ann.say(b"\x00\x01\xff")
        await bob.say("x" + "ö" * MAX_PAYLOAD)
        (short,), (long,) = await read(binary, 1), await read(text, 1)

    assert (short.base64, short.text, short.size) == ("AAH/", None, 3)
    assert long.text == "x" + "ö" * (MAX_PAYLOAD // 2 - 1)
    assert long.is_truncated
    assert long.size == 2 * MAX_PAYLOAD + 1


@in_memory
async def test_what_comes_too_fast_is_counted_and_the_room_gets_all_of_it(serve: MemoryServe) -> None:
    site = await serve(game=MUTE)
    ann = await site.join("/game/one")
    await site.until(lambda: bool(site.actors))

    with closing(await Operations(Running(site.gateway)).open_tail(ALL, CALLER)) as tail:
        ann.room.from_client(ann, [(Opcode.TEXT, b"%d" % number) for number in range(MAX_RATE + 500)])
        ann.room.from_client(ann, [(Opcode.TEXT, b"late")] * 30)
        events = await read(tail, MAX_RATE)
        (left_out,) = await read(tail, 1)
        ann.room.from_client(ann, [(Opcode.TEXT, b"again")])
        (again,) = await read(tail, 1)

    assert [event.text for event in events] == [str(number) for number in range(MAX_RATE)]
    assert (left_out.event, left_out.count) == ("left_out", 530)
    assert again.text == "again"
    assert site.actors[0].taken.count(b"\n") == MAX_RATE + 531


@in_memory
async def test_a_tail_that_is_not_read_is_bounded(serve: MemoryServe) -> None:
    site = await serve(game={**MUTE, "ping_interval": 1000.0})
    ann = await site.join("/game/one")
    await site.until(lambda: bool(site.actors))

    with closing(await Operations(Running(site.gateway)).open_tail(ALL, CALLER)) as tail:
        for _ in range(50):
            ann.room.from_client(ann, [(Opcode.TEXT, b"x" * 100_000)] * 20)
            await asyncio.sleep(1.0)
        noted = MAX_QUEUED // (MAX_PAYLOAD + OVERHEAD)
        events = await read(tail, noted + 1)

    assert {event.event for event in events[:-1]} == {"in"}
    assert events[-1].event == "left_out"
    assert events[-1].count is not None
    assert 930 <= noted + events[-1].count <= 1000  # those of the last second are counted, but not reported yet


@in_memory
async def test_a_tail_ends_with_its_last_room(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    for path in ("/game/one", "/game/two"):
        await ready(await site.join(path))

    with closing(await Operations(Running(site.gateway)).open_tail(ALL, CALLER)) as tail:
        await run(site, Stop(app="game", room="one"))
        (first,) = await read(tail, 1)
        await run(site, Stop(app="game", room="two"))
        (second,) = await read(tail, 1)
        end = await tail.read()

    assert (first.event, first.room) == ("ended", "one")
    assert (second.event, second.room) == ("ended", "two")
    assert end is None


@in_memory
async def test_a_room_without_a_tail_has_no_trace_of_one(serve: MemoryServe) -> None:
    """The way of a message is the same before and after: nothing is tested or called for each of them."""
    site = await serve(game=CAT)
    ann = await site.join("/game/one")
    await ready(ann)
    room = site.room("game", "one")
    before = room._codec.encode, room._delivery.recipients

    with closing(await Operations(Running(site.gateway)).open_tail(ALL, CALLER)):
        assert (room._codec.encode, room._delivery.recipients) != before

    assert (room._codec.encode, room._delivery.recipients) == before
    assert room._delivery.recipients is room._audience


@in_memory
async def test_two_tails_of_a_room_do_not_affect_each_other(serve: MemoryServe) -> None:
    site = await serve(game=MUTE)
    ann = await site.join("/game/one")
    operations = Operations(Running(site.gateway))

    with closing(await operations.open_tail(ALL, CALLER)) as one:
        with closing(await operations.open_tail(ALL, CALLER)) as two:
            await ann.say("first")
            assert [event.text for event in await read(two, 1)] == ["first"]
        await ann.say("second")
        texts = [event.text for event in await read(one, 2)]

    assert texts == ["first", "second"]


@in_memory
async def test_a_bug_in_a_tap_costs_the_room_nothing(serve: MemoryServe) -> None:
    class BrokenTap:
        def received(self, *_: object) -> None:
            raise ZeroDivisionError

        sent = room_ended = received

    site = await serve(game=CAT)
    ann = await site.join("/game/one")
    site.room("game", "one").taps.attach(BrokenTap())

    await ready(ann)
    await run(site, Stop(app="game", room="one"))
    await site.wait_no_rooms()

    assert len(serve.logged("tap of a room failed")) == 3


@in_memory
async def test_tails_are_limited_in_number_and_rooms_must_exist(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    await ready(await site.join("/game/one"))
    operations = Operations(Running(site.gateway))

    with pytest.raises(NotFoundError, match="no open room 'none' of game"):
        await operations.open_tail(Tail(app="game", room="none"), CALLER)
    tails = [await operations.open_tail(ALL, CALLER) for _ in range(MAX_TAILS)]
    with pytest.raises(OperationError, match="8 tails are open already"):
        await operations.open_tail(ALL, CALLER)
    for tail in tails:
        tail.close()
        tail.close()

    with closing(await operations.open_tail(ALL, CALLER)) as tail_again:
        assert tail_again.outcome.rooms == 1
