"""Input for a backend that has not started, refuses it, or has just ended."""

import asyncio
from typing import Any, cast

import pytest

from scalesocket.errors import BACKEND_ENDED
from scalesocket.rooms import intake
from scalesocket.rooms.intake import MAX_QUEUED, Intake, Membership
from scalesocket.status import Counts
from tests.conftest import Serve
from tests.playing import until
from tests.raw import mask_frame, upgrade
from tests.rooms.acting import PROGRAMS, Actor, MemoryServe, in_memory

pytestmark = pytest.mark.anyio


class Senders:
    """Stands for the clients, and counts how often they had to wait."""

    def __init__(self) -> None:
        self.holds = self.releases = 0

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.releases += 1


class Taker:
    """Stands for a backend that takes all input, until `is_refusing`."""

    unsent = 0

    def __init__(self) -> None:
        self.taken = b""
        self.left: list[bytes] = []
        """What it has not begun to take."""
        self.is_refusing = False

    def write(self, records: bytes) -> bool:
        if not self.is_refusing:
            self.taken += records
        return not self.is_refusing

    def reclaim(self) -> list[bytes]:
        left, self.left = self.left, []
        return left


class Stage:
    """An intake with its stand-ins."""

    def __init__(self, *, may_restart: bool = True) -> None:
        self.senders, self.counts = Senders(), Counts()
        self.intake = Intake(self.senders, self.counts, may_restart=lambda: may_restart)

    def begin(self) -> Taker:
        taker = Taker()
        self.intake.begin(cast(Any, taker))
        return taker


async def test_input_waits_for_the_first_backend_in_order() -> None:
    stage = Stage()
    stage.intake.write_membership(b"+1\n")
    stage.intake.write(b"one\n", 1)
    stage.intake.write(b"two\n", 1)

    assert stage.begin().taken == b"+1\none\ntwo\n"


async def test_clients_are_held_once_however_much_is_queued() -> None:
    stage = Stage()

    for _ in range(1000):
        stage.intake.write_membership(b"x" * (MAX_QUEUED // 100))

    assert stage.senders.holds == 1
    stage.begin()
    assert stage.senders.releases == 1


async def test_input_refused_by_a_dying_backend_goes_to_the_next_one_after_the_joins() -> None:
    stage = Stage()
    first = stage.begin()
    stage.intake.write(b"one\n", 1)
    first.is_refusing, first.left = True, [Membership(b"+2\n"), b"left\n"]

    assert stage.intake.write(b"two\n", 1)
    stage.intake.write_membership(b"-2\n")  # the next one is told who is there
    stage.intake.await_next([b"+1\n"])
    stage.intake.write(b"three\n", 1)

    assert first.taken == b"one\n"
    assert stage.begin().taken == b"+1\nleft\ntwo\nthree\n"
    assert stage.counts.messages_dropped == 0


async def test_each_backend_gets_one_join_record_per_client_however_many_ended_before() -> None:
    stage = Stage()
    stage.intake.write_membership(b"+1\n")
    stage.intake.write(b"one\n", 1)

    for _ in range(3):
        stage.intake.await_next([b"+1\n"])
        stage.intake.write_membership(b"+2\n")
        stage.intake.write_membership(b"-2\n")
        stage.intake.write(b"more\n", 1)

    assert stage.begin().taken == b"+1\none\nmore\nmore\n+2\n-2\nmore\n"


async def test_input_refused_by_a_backend_that_still_runs_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GRACE", 0.05)
    stage = Stage()
    taker = stage.begin()
    taker.is_refusing = True

    assert stage.intake.write(b"x" * (MAX_QUEUED + 1), 7)
    assert stage.senders.holds == 1
    await until(lambda: stage.counts.messages_dropped == 7)

    assert stage.senders.releases == 2  # by `begin`, and now
    assert not stage.intake.write(b"more\n", 1)


async def test_nothing_waits_where_no_other_backend_follows() -> None:
    stage = Stage(may_restart=False)
    stage.begin().is_refusing = True

    assert not stage.intake.write(b"one\n", 1)


async def test_input_queued_when_the_room_ends_is_counted_as_dropped() -> None:
    stage = Stage()
    stage.intake.write(b"one\ntwo\n", 2)

    stage.intake.end()

    assert stage.counts.messages_dropped == 2
    assert not stage.intake.write(b"three\n", 1)


@in_memory
async def test_messages_to_a_backend_that_closes_its_input_and_then_ends_reach_the_next(serve: MemoryServe) -> None:
    async def refuse_then_echo(actor: Actor) -> int:
        if actor.life == 2:
            return await PROGRAMS["cat"](actor)
        await actor.read()
        actor.close_input()
        await actor.print(b"closed\n")
        await asyncio.sleep(0.2)
        return 3

    site = await serve(programs={"script": refuse_then_echo}, game={"command": ["script"], "restart": "on-failure"})
    ann = await site.join("/game/one")
    await ann.say("first")
    await ann.hear("closed")

    said = [f"message {number}" for number in range(50)]
    for message in said:
        await ann.say(message)

    await ann.hear(*said)


async def test_a_backend_that_ends_before_it_took_anything_leaves_all_to_the_next(serve: Serve) -> None:
    site = await serve(
        game={
            "command": ["sh", "-c", "[ -e second ] && exec cat; touch second; exit 3"],
            "restart": "on-failure",
            "cwd": serve.folder,
            "start_delay": 0.2,
            "join_message": "+#ID",
        }
    )
    ann = await site.join("/game/one")
    await ann.say("hello")

    await ann.hear("+1", "hello")
    await ann.say("and no second join")
    await ann.hear("and no second join")


@in_memory
async def test_a_backend_that_closes_its_input_and_goes_on_printing_keeps_its_room(serve: MemoryServe) -> None:
    async def refuse_and_go_on(actor: Actor) -> int:
        await actor.read()
        actor.close_input()
        await actor.print(b"closed\n")
        while True:
            await asyncio.sleep(0.1)
            await actor.print(b"tick\n")

    site = await serve(
        programs={"script": refuse_and_go_on}, game={"command": ["script"], "restart": "always", "stop_timeout": 0.2}
    )
    ann = await site.join("/game/one")
    await ann.say("first")
    await ann.hear("closed")

    await ann.say("for nobody")
    assert site.room("game", "one").counts.messages_dropped == 0
    await asyncio.sleep(intake.GRACE)

    assert site.room("game", "one").counts.messages_dropped == 1
    assert "tick" in await ann.hear_until("tick")


async def test_metadata_of_an_ended_backend_is_cleared_even_if_it_comes_late(serve: Serve) -> None:
    late = """(sleep 0.2; echo '{"_meta":true,"of":"the dead one"}') & exit 3"""
    script = f"[ -e second ] && {{ echo second; exec cat; }}; touch second; read first; {late}"
    site = await serve(
        game={
            "command": ["sh", "-c", script],
            "restart": "on-failure",
            "cwd": serve.folder,
            "routing": {"client": "broadcast", "server": "json"},
        }
    )
    ann = await site.join("/game/one")
    await ann.say("first")
    await ann.hear("second")

    assert site.room("game", "one").status().metadata is None


# --- Bounds


async def test_no_client_joins_a_room_whose_backend_is_far_behind(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_BEHIND", 300_000)
    site = await serve(game={"command": ["sleep", "60"], "stop_timeout": 0.1, "stall_timeout": 60.0})
    ann = await site.join("/game/one")
    await ann.say("x" * 600_000)
    await site.until(lambda: site.room("game", "one")._intake.unsent > 300_000)

    bob = await site.join("/game/one")

    assert await bob.wait_closed() == (1013, "the backend is far behind with its input")
    assert site.gateway.pools["game"].status().refusals == {"backend_behind": 1}
    site.room("game", "one").stop(BACKEND_ENDED)  # or ann could not leave: nobody reads what she says


async def test_frames_sent_with_the_handshake_wait_as_well(serve_express: Serve) -> None:
    """A room that reads nobody takes nothing of those either who send their messages together with the request head."""
    site = await serve_express(game={"command": ["sleep", "60"], "stop_timeout": 0.1, "stall_timeout": 60.0})
    ann = await site.join("/game/one")
    await ann.say("x" * 600_000)
    await site.until(lambda: site.room("game", "one")._intake.unsent > 300_000)
    before = site.room("game", "one")._intake.unsent

    others = [await site.connect() for _ in range(5)]
    try:
        for other in others:
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_sendall(other, upgrade("/game/one") + mask_frame(b"y" * 20_000))
        await site.until(lambda: site.gateway.connections == 6)
        await asyncio.sleep(0.1)

        assert site.room("game", "one")._intake.unsent <= before
    finally:
        for other in others:
            other.close()
        site.room("game", "one").stop(BACKEND_ENDED)


async def test_frames_sent_with_the_handshake_are_delivered_when_the_room_reads_again(serve_express: Serve) -> None:
    """In order, before what comes later: here the room waits for its first backend."""
    site = await serve_express(game={"command": ["cat"], "start_delay": 0.3})
    ann = await site.join("/game/one")
    await ann.say("x" * (MAX_QUEUED + 1))
    await site.until(lambda: site.room("game", "one").status().counts.messages_in == 1)
    bob = await site.connect()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(10):
            await loop.sock_sendall(bob, upgrade("/game/one") + mask_frame(b"one") + mask_frame(b"two"))
            await site.until(lambda: site.gateway.connections == 2)
            await loop.sock_sendall(bob, mask_frame(b"three"))

        await ann.hear("x" * (MAX_QUEUED + 1), "one", "two", "three")
    finally:
        bob.close()
