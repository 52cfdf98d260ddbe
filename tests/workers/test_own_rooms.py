"""A worker's end of operations: what it answers, and what goes on until it is released."""

import asyncio
from typing import Any, Final

import msgspec
import pytest

from scalesocket.control.lists import RoomList
from scalesocket.control.messages import Kick, Outcome, Request, Rooms, Stop, Tail, TailEvent
from scalesocket.operations.lookup import Certainty, OperationError
from scalesocket.operations.running import Running
from scalesocket.workers.own_rooms import MAX_HELD, OwnRooms
from scalesocket.workers.site_messages import Missing, Ran, ReadTail, Release, Run, WaitEnded
from tests.rooms.acting import MemoryServe, MemorySite, in_memory

CAT: Final[dict[str, Any]] = {"command": ["cat"]}
ALL: Final = Tail(app="game", room="*")


async def run(own: OwnRooms, request: Request) -> Ran:
    """Have an operation carried out by the rooms of a worker, over the wire."""
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(Run(request)), type=Run)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(await own.run(message)), type=Ran)


async def read_all(own: OwnRooms, held: int) -> None:
    """Read a tail until its end."""
    while (await own.read_tail(ReadTail(held))).lines is not None:
        pass


async def open_own(serve: MemoryServe, **app: Any) -> tuple[MemorySite, OwnRooms]:
    site = await serve(game={**CAT, **app})
    await site.join("/game/one")
    return site, OwnRooms(Running(site.gateway))


@in_memory
async def test_a_result_is_encoded_and_not_logged(serve: MemoryServe) -> None:
    _, own = await open_own(serve)

    ran = await run(own, Rooms(app="game"))
    (entry,) = msgspec.msgpack.decode(ran.result, type=RoomList).rooms
    assert (ran.is_done, ran.held, entry.room) == (True, None, "one")
    ran = await run(own, Stop(app="game", room="*"))
    assert (ran.held, msgspec.msgpack.decode(ran.result, type=Outcome)) == (None, Outcome(rooms=1, clients=1))
    assert serve.logged("operation") == []  # the supervisor does it, once


@in_memory
async def test_a_missing_room_or_client_is_reported_and_is_no_error(serve: MemoryServe) -> None:
    _, own = await open_own(serve)

    assert (await run(own, Kick(app="game", room="oen", id=1))).missing == Missing(
        text="there is no open room 'oen' of game", certainty=Certainty.NONE, word="oen", near="one"
    )
    ran = await run(own, Kick(app="game", room="one", id=77))
    assert ran.missing is not None
    assert ran.missing.certainty == Certainty.NO_SUCH_CLIENT
    assert (await run(own, Kick(app="game", room="one", id=1, code=7))).error == "invalid close code 7 (1000, or 4000 to 4999)"


@in_memory
async def test_a_tail_is_read_until_its_end_and_released(serve: MemoryServe) -> None:
    site, own = await open_own(serve)
    ran = await run(own, ALL)
    assert ran.held is not None

    ann = await site.join("/game/one")
    await ann.say("hello")
    lines = (await own.read_tail(ReadTail(ran.held))).lines
    assert lines is not None
    assert [msgspec.json.decode(line, type=TailEvent).text for line in lines.splitlines()][:1] == ["hello"]

    reading = asyncio.create_task(read_all(own, ran.held))
    await asyncio.sleep(1)
    assert not reading.done()
    own.release(Release(ran.held))
    await reading
    with pytest.raises(OperationError, match="released"):
        await own.read_tail(ReadTail(ran.held))
    assert site.room("game", "one")._delivery.recipients is site.room("game", "one")._audience


@in_memory
async def test_a_wait_for_rooms_ends_with_them_or_when_it_is_released(serve: MemoryServe) -> None:
    site, own = await open_own(serve)
    ran = await run(own, Stop(app="game", room="one", wait=60.0))
    assert ran.held is not None

    assert await own.wait_ended(WaitEnded(ran.held, 60.0)) == Outcome(rooms=1, clients=1, pending=0)
    await site.wait_no_rooms()
    own.release(Release(ran.held))
    own.release(Release(ran.held))  # it may come twice
    with pytest.raises(OperationError, match="released"):
        await own.wait_ended(WaitEnded(ran.held, 1.0))


@in_memory
async def test_a_wait_that_nobody_waits_for_any_more_ends(serve: MemoryServe) -> None:
    _, own = await open_own(serve, command=["stubborn"], stop_timeout=1000.0)
    ran = await run(own, Stop(app="game", room="one", wait=900.0))
    assert ran.held is not None
    waiting = asyncio.create_task(own.wait_ended(WaitEnded(ran.held, 900.0)))
    await asyncio.sleep(1)
    assert not waiting.done()

    own.release(Release(ran.held))

    assert await asyncio.wait_for(waiting, 1) == Outcome(rooms=1, clients=1)


@in_memory
async def test_tails_that_are_never_released_are_bounded(serve: MemoryServe) -> None:
    site, own = await open_own(serve)
    numbers = [(await run(own, ALL)).held for _ in range(MAX_HELD + 1)]

    assert None not in numbers
    with pytest.raises(OperationError, match="released"):
        await own.read_tail(ReadTail(numbers[0] or 0))
    assert len(site.room("game", "one").taps._taps) == MAX_HELD
