"""How rooms and clients are closed by a shutdown, a restart, the removal of an app, and a bug: with the reason, over time."""

import time
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from scalesocket.config.model import Server
from scalesocket.rooms import sweep
from tests.conftest import Serve
from tests.playing import is_alive, program, site_of
from tests.raw import RawClient
from tests.rooms.acting import MemoryServe, in_memory, now

CAT: Final[dict[str, Any]] = {"command": ["cat"]}
SHUTDOWN: Final = (1001, "the server is shutting down")
REMOVED: Final = (1001, "the app was removed")


# --- Shutdown


@in_memory
async def test_two_clients_are_closed_at_once(serve: MemoryServe) -> None:
    site = await serve(Server(drain_timeout=30.0), game=CAT)
    ann, bob = await site.join("/game/one"), await site.join("/game/two")
    began = now()

    await site.gateway.drain()

    assert await ann.wait_closed() == SHUTDOWN
    assert await bob.wait_closed() == SHUTDOWN
    assert ann.closed_at - began < 0.1
    assert site.gateway.connections == 0


@in_memory
async def test_many_clients_are_closed_over_time(serve: MemoryServe) -> None:
    site = await serve(game=CAT)
    clients = [await site.join(f"/game/{number % 7}") for number in range(400)]

    await site.gateway.drain()

    assert {await client.wait_closed() for client in clients} == {SHUTDOWN}
    gone = [client.closed_at for client in clients]
    assert 0.3 <= max(gone) - min(gone) <= 0.5  # a thousand a second
    assert site.gateway.pools["game"].is_empty


@in_memory
async def test_no_more_time_is_taken_than_drain_timeout(serve: MemoryServe) -> None:
    site = await serve(Server(drain_timeout=0.1), game=CAT)
    clients = [await site.join("/game/one") for _ in range(400)]
    began = now()

    await site.gateway.drain()

    assert {await client.wait_closed() for client in clients} == {SHUTDOWN}
    assert max(client.closed_at for client in clients) - began <= 0.1


async def test_a_shutdown_does_not_wait_for_connections_that_sent_nothing(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    ann = await site.join("/game/one")
    silent = await RawClient.connect(site.port)  # as browsers open them, to be quick when they are needed
    site.raw_clients.append(silent)
    await site.until(lambda: len(site.service.connections.transports) == 2)
    began = time.monotonic()

    await site.service.drain()

    assert await ann.wait_closed() == SHUTDOWN
    assert time.monotonic() - began < 2.0


async def test_without_a_drain_timeout_all_clients_are_closed_at_once(serve: Serve) -> None:
    site = await serve(Server(drain_timeout=0.0), game=CAT)
    players = [await site.join("/game/one") for _ in range(5)]

    await site.service.drain()

    assert [await player.wait_closed() for player in players] == [SHUTDOWN] * 5


async def test_a_room_without_clients_ends_too(serve: Serve, tmp_path: Path) -> None:
    site = await serve(game={"command": program("alone", tmp_path / "lock"), "idle_timeout": 60.0})
    ann = await site.join("/game/one")
    pid = int(await ann.listen())
    await ann.leave()
    await site.until(lambda: site.room("game", "one").status().state == "lingering")

    await site.service.drain()

    assert not is_alive(pid)


@in_memory
async def test_a_shutdown_while_a_room_starts_closes_with_1001(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["cat"], "start_delay": 30.0})
    ann = await site.join("/game/one")

    await site.gateway.drain()

    assert await ann.wait_closed() == SHUTDOWN


@in_memory
async def test_a_shutdown_between_two_processes_closes_with_1001_and_starts_no_other(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["lives", "1"], "restart": "always"})
    ann = await site.join("/game/one")
    await ann.hear("life 1")
    await ann.say("die")
    await site.until(lambda: site.room("game", "one").status().state == "starting")

    await site.gateway.drain()

    assert await ann.wait_closed() == SHUTDOWN
    assert len(site.actors) == 1


async def test_output_of_a_backend_that_is_being_stopped_is_no_crash(serve: Serve) -> None:
    site = await serve(game={"command": program("stubborn"), "stop_timeout": 0.2})
    players = [await site.join("/game/one") for _ in range(3)]
    await players[0].hear("stubborn")  # the others may have come too late for it

    await site.service.drain()

    assert [await player.wait_closed() for player in players] == [SHUTDOWN] * 3


async def test_the_backend_gets_every_leave_record_before_its_input_ends(serve: Serve, tmp_path: Path) -> None:
    command = program("notes", tmp_path / "notes")
    # No signal ends the program before it has read its input, however late that is on a busy machine.
    site = await serve(game={"command": command, "leave_message": "bye #ID", "stop_signal": "SIGCONT", "stop_timeout": 10.0})
    for _ in range(3):
        await site.join("/game/one")
    await site.until((tmp_path / "notes").exists)

    await site.service.drain()

    assert (tmp_path / "notes").read_text().splitlines() == ["bye 1", "bye 2", "bye 3"]


async def test_a_client_that_does_not_read_does_not_delay_the_shutdown(serve: Serve) -> None:
    site = await serve(game={"command": program("alarm", 20_000, 500), "send_buffer": 16_000_000, "stop_timeout": 0.1})
    slow = await site.join_raw("/game/one", receive_buffer=4096)
    slow.say("go")
    await site.until(lambda: site.room("game", "one").counts.records_out > 1000)
    began = time.monotonic()

    await site.service.drain()

    assert time.monotonic() - began < 8.0


# --- A removed or restarted app


@in_memory
async def test_a_removed_app_closes_its_clients_and_no_others(serve: MemoryServe) -> None:
    site = await serve(game=CAT, other=CAT)
    ann, bob = await site.join("/game/one"), await site.join("/other/one")

    site.gateway.apply(site_of({"other": CAT}))

    assert await ann.wait_closed() == REMOVED
    assert await site.refused("/game/one") == 404
    await bob.say("still here")
    await bob.hear("still here")


@in_memory
async def test_an_app_that_is_added_again_waits_for_the_end_of_its_old_rooms(serve: MemoryServe) -> None:
    settings = {"game": {"command": ["alone", "0.4"]}, "other": CAT}
    site = await serve(**settings)
    ann = await site.join("/game/one")
    first = int(await ann.listen())
    site.gateway.apply(site_of({"other": CAT}))
    assert await ann.wait_closed() == REMOVED

    site.gateway.apply(site_of(settings))
    bob = await site.join("/game/one")
    second = await bob.listen()

    assert second != "not alone"
    assert not site.is_alive(first)


@in_memory
async def test_an_app_removed_and_added_again_and_again_leaks_nothing(serve: MemoryServe) -> None:
    site = await serve(game=CAT, other=CAT)

    for _ in range(10):
        ann = await site.join("/game/one")
        site.gateway.apply(site_of({"other": CAT}))
        assert await ann.wait_closed() == REMOVED
        site.gateway.apply(site_of({"game": CAT, "other": CAT}))

    await site.wait_no_rooms()
    assert site.gateway.connections == 0


@in_memory
async def test_restarted_rooms_close_with_1012_and_the_next_client_gets_a_new_process(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone", "0.2"]})
    ann = await site.join("/game/one")
    first = int(await ann.listen())

    assert site.gateway.restart_app("game") == 1
    assert [(told["app"], told["rooms"], told["clients"]) for told in serve.logged("rooms restarting")] == [("game", 1, 1)]

    assert await ann.wait_closed() == (1012, "the room was restarted")
    bob = await site.join("/game/one")
    assert int(await bob.listen()) != first


# --- Bugs


class Mistake(Exception):
    """What no code here should ever raise."""


def make_mistake(*_: object) -> NoReturn:
    raise Mistake


@in_memory
async def test_a_room_whose_check_fails_ends_alone(serve: MemoryServe, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await serve(game={**CAT, "client_idle_timeout": 1.0})
    ann, bob = await site.join("/game/one"), await site.join("/game/two")

    monkeypatch.setattr(site.room("game", "one"), "check", make_mistake)

    assert await ann.wait_closed() == (1011, "internal error")
    assert len(serve.logged("room failed")) == 1
    await bob.say("still here")
    await bob.hear("still here")
    assert (await bob.wait_closed())[0] == 1008  # the sweep goes on


@in_memory
async def test_deadlines_hold_though_the_process_is_always_late(serve: MemoryServe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FROZEN", -10.0)
    site = await serve(game={**CAT, "client_idle_timeout": 0.3})
    ann = await site.join("/game/one")

    assert (await ann.wait_closed())[0] == 1008


@in_memory
async def test_a_client_that_cannot_be_closed_keeps_no_other_room_from_its_restart(
    serve: MemoryServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve(game=CAT, other=CAT)
    ann, bob, eve = await site.join("/game/one"), await site.join("/game/two"), await site.join("/other/one")
    room = site.room("game", "one")

    with monkeypatch.context() as patch:
        patch.setattr(room, "expel", make_mistake)
        patch.setattr(room, "stop", make_mistake)
        site.gateway.restart_app("game")
        assert (await bob.wait_closed())[0] == 1012
        await site.until(lambda: len(serve.logged("room failed")) == 2)

    await ann.leave()
    await eve.say("still here")
    await eve.hear("still here")
