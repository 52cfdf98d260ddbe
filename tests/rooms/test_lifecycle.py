"""The lifecycle of a room: its states, its backends, and the races between them."""

import asyncio
import gc
import json
import os
import signal
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from scalesocket.backends.backend import Exit
from scalesocket.backends.stdio import StdioBackend
from scalesocket.errors import BACKEND_ENDED
from scalesocket.gateway import STOPS_PER_ITERATION
from scalesocket.rooms import lifecycle
from tests.conftest import Serve
from tests.playing import Player, is_alive, program
from tests.raw import CLOSE, RawClient, mask_frame
from tests.rooms.acting import MemoryPlayer, MemoryServe, in_memory

FAST: Final = {"stop_timeout": 0.2}
"""For programs that do not end by themselves."""
PLAYERS: Final = 50
CYCLES: Final = 200


async def pid_of(player: Player | MemoryPlayer) -> int:
    """The first line of the program `alone`."""
    said = await player.listen()
    assert said != "not alone"
    return int(said)


# --- Joining and leaving


@in_memory
async def test_the_backend_starts_with_the_first_client(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["cat"]})
    assert site.gateway.pools["game"].status().backend_starts == 0

    ann = await site.join("/game/one")
    await ann.say("hello")
    await ann.hear("hello")

    assert site.gateway.pools["game"].status().backend_starts == 1


@in_memory
async def test_the_room_stops_when_its_last_client_leaves(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone"]})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")
    pid = await pid_of(ann)

    await ann.leave()
    await bob.say("still here")
    assert site.is_alive(pid)
    await bob.leave()

    await site.wait_no_rooms()
    assert not site.is_alive(pid)


@pytest.mark.one_process("each worker has an event loop of its own")
async def test_rooms_that_end_together_do_not_block_the_event_loop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await serve(game={"command": ["cat"]})
    players = [await site.join(f"/game/{number}") for number in range(3 * STOPS_PER_ITERATION)]
    for player in players:
        await player.say("hello")
        await player.hear("hello")
    loop = asyncio.get_running_loop()
    stopped: Counter[int] = Counter()
    turn = 0

    def count_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(count_turn)

    stop = StdioBackend.stop

    async def counted_stop(self: StdioBackend, **how: Any) -> Exit:
        stopped[turn] += 1
        return await stop(self, **how)

    monkeypatch.setattr(StdioBackend, "stop", counted_stop)
    count_turn()
    for room in site.gateway.pools["game"].all_rooms:
        room.stop(BACKEND_ENDED)

    await site.wait_no_rooms()
    assert stopped.total() == len(players)
    assert max(stopped.values()) <= STOPS_PER_ITERATION


@in_memory
async def test_a_room_lingers_for_idle_timeout_and_keeps_its_process(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone"], "idle_timeout": 30.0})
    ann = await site.join("/game/one")
    pid = await pid_of(ann)
    await ann.leave()
    await site.until(lambda: site.room("game", "one").status().state == "lingering")

    bob = await site.join("/game/one")
    await bob.say("hello again")

    await bob.hear("hello again")
    assert site.room("game", "one").status().pid == pid
    assert site.room("game", "one").status().state == "open"


@in_memory
async def test_a_room_that_lingered_for_idle_timeout_stops(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone"], "idle_timeout": 0.1})
    ann = await site.join("/game/one")
    pid = await pid_of(ann)

    await ann.leave()

    await site.wait_no_rooms()
    assert not site.is_alive(pid)


@in_memory
async def test_a_client_that_joins_within_idle_timeout_cancels_it(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone"], "idle_timeout": 0.3})
    ann = await site.join("/game/one")
    await pid_of(ann)
    await ann.leave()
    bob = await site.join("/game/one")

    await bob.hear_nothing(within=0.6)

    await bob.say("still the same")
    await bob.hear("still the same")
    assert site.gateway.pools["game"].status().backend_starts == 1


async def test_a_client_that_joins_while_the_room_stops_waits_for_the_end_of_its_process(serve: Serve, tmp_path: Path) -> None:
    site = await serve(game={"command": program("alone", tmp_path / "lock", 0.3)})
    ann = await site.join("/game/one")
    first = await pid_of(ann)
    await ann.leave()
    await site.until(lambda: "one" not in site.gateway.pools["game"].rooms)

    bob = await site.join("/game/one")
    second = await pid_of(bob)

    assert second != first
    assert not is_alive(first)


@in_memory
async def test_input_to_a_room_that_waits_for_its_predecessor_is_not_lost(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone", "0.3"]})
    ann = await site.join("/game/one")
    await pid_of(ann)
    await ann.leave()
    await site.until(lambda: "one" not in site.gateway.pools["game"].rooms)
    bob = await site.join("/game/one")

    for number in range(100):
        await bob.say(f"line {number}")

    await pid_of(bob)
    await bob.hear(*(f"line {number}" for number in range(100)))


@in_memory
async def test_clients_that_join_and_leave_while_a_room_stops_share_one_successor(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["alone", "0.5"]})
    ann = await site.join("/game/one")
    await pid_of(ann)
    await ann.leave()
    await site.until(lambda: "one" not in site.gateway.pools["game"].rooms)

    for _ in range(5):
        await (await site.join("/game/one")).leave()
    bob = await site.join("/game/one")

    await pid_of(bob)
    assert site.gateway.pools["game"].status().backend_starts == 2


@in_memory
async def test_input_sent_before_the_process_ran_reaches_it_after_the_last_client_left(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["mute"]})

    async with await site.join("/game/one") as ann:
        await ann.say("do not forget me")

    await site.wait_no_rooms()
    assert site.actors[0].taken == b"do not forget me\n"


@in_memory
async def test_a_room_whose_only_client_left_before_the_process_ran_stops(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["stubborn"], **FAST})

    await (await site.join("/game/one")).leave()

    await site.wait_no_rooms()


async def test_ten_thousand_joins_and_leaves_never_reach_two_processes_or_a_dying_one(
    serve: Serve, tmp_path: Path, anyio_backend: tuple[str, dict[str, bool]]
) -> None:
    # All ten thousand where they are fast enough; the other combinations of lane and loop do fewer.
    # A process that finds another one of its room ends with status 1, before it echoes anything.
    alone = ["sh", "-c", 'exec flock --nonblock "$0.$ROOM" cat', str(tmp_path / "lock")]
    site = await serve(game={"command": alone, "max_rooms": 10})
    is_fastest = site.lane == "express" and anyio_backend[1]["use_uvloop"]
    cycles = CYCLES if is_fastest else CYCLES // 10

    async def come_and_go(number: int) -> None:
        for cycle in range(cycles):
            async with await RawClient.join(await site.connect(), f"/game/{number % 10}") as player:
                if cycle % 10 == 0:
                    words = f"{number} {cycle}"
                    player.say(words)
                    while (await player.read_frame()).payload != words.encode():
                        pass
                if cycle % 2 == 0:  # the others vanish without a word
                    player.send(mask_frame(b"", CLOSE))
                    await player.read_end()

    async with asyncio.timeout(110):
        await asyncio.gather(*map(come_and_go, range(PLAYERS)))

    await site.wait_no_rooms()
    status = site.gateway.pools["game"].status()
    assert status.counts.connections_total == PLAYERS * cycles
    assert "1" not in status.backend_exits
    assert sum(status.backend_exits.values()) == status.backend_starts
    assert status.refusals == {}
    assert site.gateway.connections == 0


async def test_an_ended_room_is_freed_at_once_and_not_by_the_garbage_collector(serve: Serve) -> None:
    site = await serve(game={"command": ["cat"], "idle_timeout": 0.05, "max_lifetime": 3600.0})
    ann = await site.join("/game/one")
    room = weakref.ref(site.gateway.pools["game"].rooms["one"])
    gc.disable()
    try:
        await ann.leave()
        await site.wait_no_rooms()

        await site.until(lambda: room() is None)
    finally:
        gc.enable()


# --- The end of the backend


@in_memory
async def test_a_program_that_ends_with_status_0_closes_its_clients_with_1000(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["head", "-n", "1"]})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    await ann.say("last words")

    await bob.hear("last words")
    assert await ann.wait_closed() == (1000, "the program ended")
    assert await bob.wait_closed() == (1000, "the program ended")


@pytest.mark.parametrize(
    ("end", "reason"),
    [("3", "the program ended with exit status 3"), ("SIGSEGV", "the program was killed by SIGSEGV")],
)
async def test_a_program_that_crashes_closes_its_clients_with_1011_and_how(serve: Serve, end: str, reason: str) -> None:
    site = await serve(game={"command": program("crash", end)})

    ann = await site.join("/game/one")

    await ann.hear("so far so good")
    assert await ann.wait_closed() == (1011, reason)
    await site.wait_no_rooms()
    assert site.gateway.pools["game"].status().backend_exits == {end: 1}


async def test_output_before_the_end_of_a_program_is_complete(serve: Serve) -> None:
    site = await serve(game={"command": program("flood", 20_000)})

    ann = await site.join("/game/one")

    await ann.hear(*map(str, range(20_000)))
    assert await ann.wait_closed() == (1000, "the program ended")


async def test_a_last_line_without_a_delimiter_is_delivered(serve: Serve) -> None:
    site = await serve(game={"command": ["printf", "one\\ntwo"]})

    ann = await site.join("/game/one")

    await ann.hear("one", "two")


async def test_output_of_a_process_left_behind_is_delivered_for_stop_timeout(serve: Serve) -> None:
    site = await serve(game={"command": program("grandchild", 0.3, "hold"), "stop_timeout": 5.0})

    ann = await site.join("/game/one")

    pid = int(await ann.listen())
    await ann.hear("bye")
    assert await ann.wait_closed() == (1000, "the program ended")
    await site.wait_no_rooms()
    assert not is_alive(pid)


async def test_a_process_left_behind_is_killed_after_stop_timeout(serve: Serve) -> None:
    site = await serve(game={"command": program("grandchild", 60, "hold"), **FAST})

    ann = await site.join("/game/one")

    pid = int(await ann.listen())
    assert await ann.wait_closed() == (1000, "the program ended")
    await site.wait_no_rooms()
    assert not is_alive(pid)


@pytest.mark.parametrize("routing", ["text", "gwsocket"])
async def test_a_process_left_behind_that_goes_on_is_cut_off_once_at_its_kill(serve: Serve, routing: str) -> None:
    settings = {} if routing == "text" else {"routing": "gwsocket"}
    site = await serve(game={"command": program("heirs", routing), "stop_timeout": 0.1, "restart": "always", **settings})
    ann = await site.join("/game/one")
    pool, halves, started = site.gateway.pools["game"], 0, 0

    async with asyncio.timeout(20):
        while (started := pool.status().backend_starts) < 4:
            halves += await ann.listen() != "0123456789" * 10

    assert halves <= started


@pytest.mark.parametrize("slow_client", ["close", "block"])
async def test_a_flood_of_a_process_left_behind_ends_however_slowly_it_is_read(serve_express: Serve, slow_client: str) -> None:
    flood = ["sh", "-c", "yes 0123456789012345678901234567890123456789 & exit 0"]
    site = await serve_express(game={"command": flood, "stop_timeout": 0.3, "slow_client": slow_client})
    ann = await site.join_raw("/game/one")

    async with asyncio.timeout(10):
        while site.gateway.pools["game"].all_rooms:
            await ann.reader.read(65536)
            await asyncio.sleep(0.005)
    assert site.gateway.pools["game"].is_empty


async def test_a_target_that_closes_is_not_called_a_program(serve: Serve) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    site = await serve(game={"tcp": f"127.0.0.1:{port}"})

    ann = await site.join("/game/one")

    assert await ann.wait_closed() == (1000, "the target closed the connection")
    server.close()


async def test_a_command_that_cannot_start_closes_its_clients_with_1011_and_why(serve: Serve) -> None:
    site = await serve(game={"command": ["/no/such/program"]}, other={"command": ["cat"]})

    ann = await site.join("/game/one")

    code, reason = await ann.wait_closed()
    assert (code, reason) == (1011, "cannot start '/no/such/program': no such file or directory")
    await site.wait_no_rooms()
    assert site.gateway.pools["game"].status().backend_failures == 1
    bob = await site.join("/other/one")
    await bob.say("the site goes on")
    await bob.hear("the site goes on")


@in_memory
async def test_a_bug_in_one_room_ends_that_room_alone(serve: MemoryServe, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await serve(game={"command": ["cat"]}, other={"command": ["cat"]})
    bob = await site.join("/other/one")

    async def fail(*arguments: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(site.gateway.pools["game"], "_open_backend", fail)
    ann = await site.join("/game/one")

    assert await ann.wait_closed() == (1011, "internal error")
    assert serve.logged("room failed")
    await bob.say("the site goes on")
    await bob.hear("the site goes on")


@in_memory
async def test_a_client_that_joins_after_the_end_of_a_program_gets_a_new_one(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["head", "-n", "1"]})
    ann = await site.join("/game/one")
    await ann.say("first")
    assert (await ann.wait_closed())[0] == 1000

    bob = await site.join("/game/one")

    await bob.say("second")
    await bob.hear("second")


async def test_a_process_that_ignores_every_signal_is_killed(serve: Serve) -> None:
    site = await serve(game={"command": program("stubborn"), **FAST})
    ann = await site.join("/game/one")
    await ann.hear("stubborn")
    pid = site.room("game", "one").status().pid
    assert pid is not None

    await ann.leave()

    await site.wait_no_rooms()
    assert not is_alive(pid)
    assert site.gateway.pools["game"].status().backend_exits == {"SIGKILL": 1}


async def test_the_stop_signal_is_the_app_s_own(serve: Serve) -> None:
    site = await serve(game={"command": program("nest"), "stop_signal": int(signal.SIGUSR1)})
    ann = await site.join("/game/one")
    pids = [int(word) for word in str(await ann.listen()).split()]

    await ann.leave()

    await site.wait_no_rooms()
    assert site.gateway.pools["game"].status().backend_exits == {"SIGUSR1": 1}
    assert not any(map(is_alive, pids))


# --- Deadlines


@in_memory
async def test_a_room_that_reaches_max_lifetime_closes_its_clients_with_1000(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["cat"], "max_lifetime": 0.2})

    ann = await site.join("/game/one")

    assert await ann.wait_closed() == (1000, "the room reached its max_lifetime")
    await site.wait_no_rooms()


@in_memory
async def test_a_client_that_sends_nothing_for_client_idle_timeout_is_closed_with_1008(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["cat"], "client_idle_timeout": 0.8})
    ann, bob = await site.join("/game/one"), await site.join("/game/one")

    async def keep_talking() -> None:
        while True:
            await bob.say("still here")
            await asyncio.sleep(0.05)

    talking = asyncio.create_task(keep_talking())
    try:
        assert await ann.wait_closed() == (1008, "nothing was sent for client_idle_timeout")
        assert bob.closed is None
    finally:
        talking.cancel()


@in_memory
async def test_a_oneshot_room_takes_one_client_once(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["cat"], "oneshot": True})
    ann = await site.join("/game/one")
    await ann.say("mine")
    await ann.hear("mine")

    bob = await site.join("/game/one")

    assert await bob.wait_closed() == (1013, "the room takes one client, once")
    await ann.say("still mine")
    await ann.hear("still mine")


@in_memory
async def test_a_oneshot_room_ends_with_its_client_whatever_idle_timeout_says(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["cat"], "oneshot": True, "idle_timeout": 60.0})
    ann = await site.join("/game/one")
    await ann.say("mine")
    await ann.hear("mine")

    await ann.leave()

    await site.wait_no_rooms()


# --- Restart


async def test_a_crashed_backend_is_started_again_and_its_clients_stay(serve: Serve, tmp_path: Path) -> None:
    site = await serve(game={"command": program("lives", tmp_path / "lives", 1), "restart": "on-failure"})
    ann = await site.join("/game/one")
    await ann.hear("life 1")

    await ann.say("die")

    await ann.hear("life 2")
    await ann.say("and on we play")
    await ann.hear("and on we play")
    assert site.gateway.pools["game"].status().counts.connections_total == 1


@in_memory
async def test_restart_on_failure_lets_a_program_end_that_is_done(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["lives", "1", "0"], "restart": "on-failure"})
    ann = await site.join("/game/one")

    await ann.say("die")

    await ann.hear("life 1")
    assert await ann.wait_closed() == (1000, "the program ended")


@in_memory
async def test_restart_always_starts_a_program_again_that_is_done(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["lives", "1", "0"], "restart": "always"})
    ann = await site.join("/game/one")

    await ann.say("die")

    await ann.hear("life 1", "life 2")


@in_memory
async def test_a_new_process_gets_a_join_record_for_each_client_in_order_of_their_ids(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["lives", "1"], "restart": "on-failure", "join_message": "+#ID"})
    players = [await site.join("/game/one") for _ in range(3)]
    await players[2].hear_until("+3")
    await players[1].leave()

    await players[0].say("die")

    await players[2].hear("life 2", "+1", "+3")


@in_memory
async def test_input_between_two_processes_comes_after_the_join_records(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["lives", "1"], "restart": "on-failure", "join_message": "+#ID"})
    ann = await site.join("/game/one")
    await ann.hear("life 1", "+1")
    await ann.say("die")
    await site.until(lambda: site.room("game", "one").status().state == "starting")

    await ann.say("are you back?")

    await ann.hear("life 2", "+1", "are you back?")


@in_memory
async def test_a_restart_keeps_the_history_and_clears_the_metadata(serve: MemoryServe) -> None:
    site = await serve(
        game={
            "command": ["lives", "1"],
            "restart": "on-failure",
            "routing": {"client": "broadcast", "server": "json"},
            "history": {"size": 10},
        }
    )
    ann = await site.join("/game/one")
    await ann.hear("life 1")
    await ann.say(json.dumps({"_meta": True, "round": 1}))
    await ann.say("one")
    await ann.hear("one")
    assert site.room("game", "one").status().metadata == b'{"round":1}'

    await ann.say("die")
    await ann.hear("life 2")

    assert site.room("game", "one").status().metadata is None
    bob = await site.join("/game/one")
    await bob.hear("life 1", "one", "life 2")


@in_memory
async def test_a_backend_that_keeps_crashing_is_given_up(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["lives", "-100"], "restart": "on-failure"})

    ann = await site.join("/game/one")

    await ann.hear(*(f"life {number}" for number in range(1, 7)))  # the first start and five restarts
    assert await ann.wait_closed() == (1011, "the program ended with exit status 1")
    await site.wait_no_rooms()
    assert [entry["event"] for entry in serve.events if entry["event"].startswith("backend")][-2:] == [
        "backend ended",
        "backend given up",
    ]


@in_memory
async def test_the_status_has_the_end_of_a_backend_when_the_log_has_it(
    serve: MemoryServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    site = await serve(game={"command": ["lives", "1"]})
    pool = site.gateway.pools["game"]

    def note(event: str, **_: object) -> None:
        seen.append((event, pool.status().last_exit is not None, len(pool.status().rooms)))

    monkeypatch.setattr(lifecycle.log, "warning", note)
    ann = await site.join("/game/one")
    await ann.hear("life 1")

    await ann.say("die")
    await site.wait_no_rooms()

    assert seen == [("backend ended", True, 0)]


async def test_a_backend_is_not_restarted_without_clients(serve: Serve, tmp_path: Path) -> None:
    site = await serve(game={"command": program("lives", tmp_path / "lives", 1), "restart": "always", "idle_timeout": 30.0})
    ann = await site.join("/game/one")
    await ann.hear("life 1")
    await ann.leave()
    await site.until(lambda: site.room("game", "one").status().state == "lingering")
    pid = site.room("game", "one").status().pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)

    await site.wait_no_rooms()
    assert (tmp_path / "lives").read_text() == "1"


@in_memory
async def test_a_room_whose_last_client_leaves_between_two_processes_stops(serve: MemoryServe) -> None:
    site = await serve(game={"command": ["lives", "1"], "restart": "always"})
    ann = await site.join("/game/one")
    await ann.hear("life 1")
    await ann.say("die")
    await site.until(lambda: site.room("game", "one").status().state == "starting")

    await ann.leave()

    await site.wait_no_rooms()
