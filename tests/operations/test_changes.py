"""What an operator can change: who is in a room, and whether the room goes on."""

import asyncio
import math
from typing import Any, Final

import pytest

from scalesocket.admission.refusals import Refusal
from scalesocket.auth.identity import Identity
from scalesocket.config.model import Server
from scalesocket.control.messages import Drain, Kick, Outcome, Request, Restart, Say, SayOutcome, Stop
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.operations.running import Running
from scalesocket.operations.table import MAX_WAITS, LocalSite, Operations
from tests.operations.operating import CALLER, run
from tests.playing import site_of
from tests.rooms.acting import Actor, MemoryPlayer, MemoryServe, in_memory, make_request, mute

CAT: Final[dict[str, Any]] = {"command": ["cat"]}
MUTE: Final[dict[str, Any]] = {"command": ["mute"]}
DRAINED: Final = (1001, "the app takes no clients for now")


# --- Kick


@in_memory
async def test_a_kicked_client_is_closed_and_the_others_stay(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    outcome = await run(site, Kick(app="game", room="one", id=ann.id))

    assert outcome == Outcome(rooms=1, clients=1)
    assert await ann.wait_closed() == (4403, "kicked")
    await bob.say("still here")
    await bob.hear("still here")
    (logged,) = serve.logged("operation")
    assert logged["asked_by"] == "control socket, uid 0, pid 1"
    shown = {key: logged[key] for key in ("operation", "app", "room", "id", "clients")}
    assert shown == {"operation": "kick", "app": "game", "room": "one", "id": ann.id, "clients": 1}


@in_memory
async def test_a_user_is_kicked_from_all_rooms_that_match(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    paths = ("/game/one", "/game/one", "/game/two", "/game/one", "/game/other")
    players = [await site.join(path) for path in paths]
    for player, user in zip(players, ("ann", "ann", "ann", "bob", None), strict=True):
        player.identity = Identity(user=user, method="token")

    outcome = await run(site, Kick(app="game", room="*o*", user="ann"))

    assert outcome == Outcome(rooms=2, clients=3)
    assert site.gateway.status().apps[0].counts.kicked == 3
    assert site.gateway.status().apps[0].counts.drained == 0
    assert [player.closed is not None for player in players] == [True, True, True, False, False]


@in_memory
async def test_a_kick_has_the_code_and_reason_that_are_given(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    ann = await site.join("/game/one")

    await run(site, Kick(app="game", room="*", id=ann.id, code=4100, reason="be kind"))

    assert await ann.wait_closed() == (4100, "be kind")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (Kick(app="game", room="one", id=1, code=1002), r"invalid close code 1002 \(1000, or 4000 to 4999\)"),
        (Kick(app="game", room="one", id=1, code=5000), "invalid close code 5000"),
        (Kick(app="game", room="one", id=1, reason="ö" * 62), "longer than 123 bytes"),
        (Kick(app="game", room="one"), "either the id of a client or a user"),
        (Kick(app="game", room="one", id=1, user="ann"), "either the id of a client or a user"),
        (Kick(app="game", room="one", id=77), "there is no client 77 in game/one"),
        (Kick(app="game", room="one", user="ann"), "there is no client of the user 'ann' in game/one"),
        (Kick(app="gmae", room="one", id=1), r"there is no app 'gmae' \(did you mean 'game'\?\)"),
        (Stop(app="game", room="two"), "there is no open room 'two' of game"),
        (Restart(app="game", room="t*"), "no open room of game matches 't\\*'"),
        (Say(app="game", room="two", text="hi"), "there is no open room 'two' of game"),
        (Say(app="game", room="one", text=""), "the text is empty"),
        (Drain(app="gmae"), "there is no app 'gmae'"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_is_logged(request_: Request, answer: str) -> None:
    @in_memory
    async def scene(serve: MemoryServe) -> None:
        site = await serve(game=CAT)
        ann = await site.join("/game/one")

        with pytest.raises(OperationError, match=answer):
            await run(site, request_)

        await ann.say("still here")
        await ann.hear("still here")
        assert [entry["asked_by"] for entry in serve.logged("operation failed")] == ["control socket, uid 0, pid 1"]

    scene()


# --- Stop and restart


@in_memory
async def test_stop_closes_the_clients_of_a_room_and_ends_its_program(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    ann, bob, cid = [await site.join(path) for path in ("/game/one", "/game/one", "/game/two")]

    outcome = await run(site, Stop(app="game", room="one"))

    assert outcome == Outcome(rooms=1, clients=2)
    assert await ann.wait_closed() == await bob.wait_closed() == (1001, "the room was stopped")
    await site.until(lambda: not site.actors[0].is_running)
    await cid.say("still here")
    await cid.hear("still here")


@in_memory
async def test_a_room_that_stops_is_not_stopped_again(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["stubborn"], "stop_timeout": 1.0})
    await (await site.join("/game/one")).hear("stubborn")
    await run(site, Stop(app="game", room="one"))

    with pytest.raises(NotFoundError, match="the room 'one' of game is stopping already"):
        await run(site, Stop(app="game", room="one"))


@in_memory
async def test_restart_closes_rooms_so_that_clients_open_them_again(serve: MemoryServe) -> None:
    site = await serve(game=CAT, chat=CAT)
    ann, bob, cid = [await site.join(path) for path in ("/game/one", "/game/two", "/chat/one")]

    assert await run(site, Restart(app="game", room="one")) == Outcome(rooms=1, clients=1)
    assert await ann.wait_closed() == (1012, "the room was restarted")
    ann = await site.join("/game/one")
    await ann.say("again")
    await ann.hear("again")
    assert await run(site, Restart(app="game")) == Outcome(rooms=2, clients=2)

    assert await ann.wait_closed() == await bob.wait_closed() == (1012, "the room was restarted")
    await cid.say("still here")
    await cid.hear("still here")


@in_memory
async def test_stop_waits_for_the_end_of_the_programs_if_it_is_asked_to(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["stubborn"], "stop_timeout": 5.0}, chat=CAT)
    await (await site.join("/game/one")).hear("stubborn")
    await site.join("/chat/one")

    short = await run(site, Stop(app="game", room="one", wait=1.0))
    rest = await run(site, Stop(app="game", room="*", wait=30.0))  # of a room that is stopping already

    assert (short, rest) == (Outcome(rooms=1, clients=1, pending=1), Outcome(rooms=1, clients=0, pending=0))
    assert [actor.is_running for actor in site.actors] == [False, True]


@in_memory
async def test_restart_and_drain_wait_for_the_end_of_the_programs_if_they_are_asked_to(serve: MemoryServe) -> None:
    site = await serve(Server(drain_timeout=2.0), game=CAT, chat=CAT)
    for number in range(200):  # some are closed later, within drain_timeout
        await site.join(f"/game/{number % 3}")
    await site.join("/chat/one")

    restarted = await run(site, Restart(app="game", wait=30.0))
    drained = await run(site, Drain(app="chat", wait=30.0))
    nothing = await run(site, Drain(wait=30.0))

    assert [app.counts.drained for app in site.gateway.status().apps] == [200, 1]
    assert (restarted, drained) == (Outcome(rooms=3, clients=200, pending=0), Outcome(rooms=1, clients=1, pending=0))
    assert nothing == Outcome(rooms=0, clients=0, pending=0)
    assert not any(actor.is_running for actor in site.actors)


@in_memory
async def test_a_change_is_logged_before_its_end_is_waited_for(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["stubborn"], "stop_timeout": 5.0})
    await (await site.join("/game/one")).hear("stubborn")

    waiting = asyncio.ensure_future(run(site, Stop(app="game", room="one", wait=30.0)))
    await site.until(lambda: serve.logged("operation") != [])

    assert site.actors[0].is_running
    assert (await waiting).pending == 0


@in_memory
async def test_operations_that_wait_are_bounded_in_time_and_number(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["stubborn"], "stop_timeout": 5.0})
    await (await site.join("/game/one")).hear("stubborn")
    operations = Operations(Running(site.gateway))
    request = Stop(app="game", room="one", wait=30.0)
    for wait in (-1.0, 3601.0, math.nan, math.inf):
        with pytest.raises(OperationError, match="invalid time to wait"):
            await run(site, Stop(app="game", room="one", wait=wait))
    assert site.actors[0].is_running

    waiting = [asyncio.ensure_future(operations.run(request, CALLER)) for _ in range(MAX_WAITS)]
    await site.until(lambda: len(serve.logged("operation")) == MAX_WAITS)
    with pytest.raises(OperationError, match=f"{MAX_WAITS} operations wait"):
        await operations.run(request, CALLER)

    await asyncio.gather(*waiting)
    assert await operations.run(Drain(wait=1.0), CALLER) == Outcome(rooms=0, clients=0, pending=0)


@in_memory
async def test_operations_that_begin_at_the_same_time_are_bounded_too(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    may_go_on = asyncio.Event()

    class Slow(LocalSite):
        async def carry_out(self, request: Request) -> object:
            await may_go_on.wait()
            return await super().carry_out(request)

    operations = Operations(Running(site.gateway), Slow(Running(site.gateway)))
    begun = [asyncio.ensure_future(operations.run(Drain(wait=1.0), CALLER)) for _ in range(MAX_WAITS)]
    await asyncio.sleep(0)
    with pytest.raises(OperationError, match=f"{MAX_WAITS} operations wait"):
        await operations.run(Drain(wait=1.0), CALLER)

    may_go_on.set()
    await asyncio.gather(*begun)


# --- Say


@in_memory
async def test_say_reaches_a_room_as_if_its_program_had_said_it(serve: MemoryServe) -> None:
    site = await serve(game={**MUTE, "history": {"size": 9}})
    ann, bob = await site.join("/game/one"), await site.join("/game/two")

    assert await run(site, Say(app="game", room="one", text="maintenance at five")) == SayOutcome(rooms=1, delivered=1, dropped=0)

    await ann.hear("maintenance at five")
    cid = await site.join("/game/one")
    await cid.hear("maintenance at five")  # from the history
    await bob.hear_nothing()


@in_memory
async def test_say_goes_through_the_routing(serve: MemoryServe) -> None:
    site = await serve(game={**MUTE, "routing": "json"})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    to_bob = await run(site, Say(app="game", room="*", text=f'{{"_to":{bob.id},"t":"psst"}}'))
    wrong = await run(site, Say(app="game", room="one", text='{"_to":"5","t":"psst"}'))

    assert to_bob == SayOutcome(rooms=1, delivered=1, dropped=0)
    assert wrong == SayOutcome(rooms=1, delivered=0, dropped=1)
    await bob.hear(f'{{"_to":{bob.id},"t":"psst"}}')
    await ann.hear_nothing()


@in_memory
async def test_say_does_not_disturb_a_record_that_is_half_printed(serve: MemoryServe) -> None:
    async def halves(actor: Actor) -> int:
        await actor.print(b"first ")
        await actor.read()
        await actor.print(b"half\n")
        return await mute(actor)

    site = await serve(game={"command": ["halves"]}, programs={"halves": halves})
    ann = await site.join("/game/one")
    await ann.hear_nothing()

    await run(site, Say(app="game", room="one", text="hello"))
    await ann.say("go on")

    await ann.hear("hello", "first half")


@in_memory
async def test_say_is_text_for_everyone_with_gwsocket(serve: MemoryServe) -> None:
    site = await serve(
        game={**MUTE, "routing": "gwsocket"}, big={**MUTE, "routing": "gwsocket", "byte_order": "big", "delimiter": "\n"}
    )
    ann, bob = await site.join("/game/one"), await site.join("/big/one")

    for app in ("game", "big"):
        await run(site, Say(app=app, room="one", text="hello\n"))

    await ann.hear("hello\n")
    await bob.hear("hello\n")


@in_memory
async def test_a_text_longer_than_max_record_costs_the_room_nothing(serve: MemoryServe) -> None:
    site = await serve(game={**CAT, "max_record": 10})
    ann = await site.join("/game/one")

    with pytest.raises(OperationError, match="longer than max_record"):
        await run(site, Say(app="game", room="one", text="x" * 11))

    await ann.say("short")
    await ann.hear("short")


@in_memory
async def test_the_log_does_not_contain_what_was_said(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    await site.join("/game/one")

    await run(site, Say(app="game", room="one", text="between us"))

    assert serve.logged("operation")[0]["rooms"] == 1
    assert "between us" not in str(serve.events)


# --- Drain


@in_memory
async def test_a_drained_app_takes_no_clients_until_it_is_edited(serve: MemoryServe) -> None:
    site = await serve(game=CAT, chat=CAT)
    ann, bob = await site.join("/game/one"), await site.join("/chat/one")

    assert await run(site, Drain(app="game")) == Outcome(rooms=1, clients=1)

    assert await ann.wait_closed() == DRAINED
    assert await site.refused("/game/one") == 503
    status = site.gateway.status()
    assert [app.is_drained for app in status.apps] == [True, False]
    assert status.apps[0].refusals == {"app_drained": 1}
    assert not site.gateway.is_draining
    await bob.say("still here")
    await bob.hear("still here")
    await site.until(lambda: site.gateway.pools["game"].is_empty)
    site.gateway.apply(site_of({"game": CAT, "chat": {**CAT, "max_clients": 9}}, Server()))  # an edit of another app
    assert await site.refused("/game/one") == 503
    site.gateway.apply(site_of({"game": {**CAT, "max_clients": 9}, "chat": CAT}, Server()))
    ann = await site.join("/game/one")
    await ann.say("back")
    await ann.hear("back")


@in_memory
async def test_a_client_that_was_admitted_before_the_drain_is_closed_with_1013(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    admission = site.gateway.admission.admit(make_request("/game/one"))
    assert not isinstance(admission, Refusal)

    await run(site, Drain(app="game"))

    close = admission.join(MemoryPlayer(admission.request))
    assert close is not None
    assert (close.code, close.reason) == (1013, "the app takes no clients for now")


@in_memory
async def test_many_clients_of_a_drained_app_are_closed_over_time(serve: MemoryServe) -> None:
    site = await serve(Server(drain_timeout=1.0), game=CAT)
    clients = [await site.join(f"/game/{number % 7}") for number in range(400)]

    await run(site, Drain(app="game"))

    assert {await client.wait_closed() for client in clients} == {DRAINED}
    closed = [client.closed_at for client in clients]
    assert 0.3 <= max(closed) - min(closed) <= 1.0


@in_memory
async def test_a_drained_site_goes_on_without_clients(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    ann = await site.join("/game/one")

    assert await run(site, Drain()) == Outcome(rooms=1, clients=1)

    assert site.gateway.is_draining
    assert await site.refused("/game/one") == 503
    assert await ann.wait_closed() == (1001, "the server is shutting down")
    await site.until(lambda: site.gateway.pools["game"].is_empty)
    await site.gateway.drain()  # the shutdown that follows finds nothing left
