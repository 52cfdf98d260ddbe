"""Backpressure: nothing is lost and every buffer is bounded, whichever side does not read."""

import asyncio
import hashlib
import itertools
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from scalesocket.rooms import flow
from tests.conftest import Serve
from tests.playing import Lane, Player, Playground, program, site_of
from tests.raw import RawClient, mask_frame
from tests.rooms.acting import PROGRAMS, Actor, MemoryServe, in_memory

KiB: Final = 1024
MiB: Final = 1024 * KiB

SMALL: Final = 4 * KiB
"""Receive buffer of a client that does not read, so that not all is hidden in the kernel."""
TO_EACH: Final = 64 * KiB
"""What one read of a backend may add to a client's buffer."""


def numbers(first: int, count: int, width: int) -> list[str]:
    return [f"{number:0{width}}" for number in range(first, first + count)]


async def hear_numbers(player: Player, count: int, width: int) -> None:
    """All lines of `flood.py` and `alarm.py`, in order."""
    for number in range(count):
        heard = await player.listen()
        assert heard == f"{number:0{width}}", f"heard {heard!r}, expected {number}"


def unsent(site: Playground, room: str = "one") -> list[int]:
    return [client.unsent for client in site.room("game", room).clients.values()]


# --- Nothing is lost


async def test_a_hundred_thousand_lines_at_once_reach_fifty_clients_complete_and_in_order(
    serve: Serve, lane: Lane, anyio_backend: tuple[str, dict[str, bool]]
) -> None:
    # In full where it is fast; the other combinations of lane and loop have a tenth of the lines and of the clients.
    part = 1 if anyio_backend[1]["use_uvloop"] and lane == "express" else 10
    lines, clients = 100_000 // part, 50 // part
    site = await serve(game={"command": program("alarm", lines, 0)})
    expected = b"".join(bytes((0x81, len(line))) + line.encode() for line in map(str, range(lines)))
    hashes = [hashlib.blake2b() for _ in range(clients)]
    listeners = [await site.join_raw("/game/one") for _ in range(clients)]

    async def listen(client: RawClient, digest: "hashlib._Hash") -> None:
        if lane == "general":  # where the server pings at the very start
            assert await client.read_frame() == (0x89, b"")
        left = len(expected)
        while left:
            chunk = await client.reader.read(min(left, 256 * KiB))
            assert chunk, f"{left} bytes are missing"
            digest.update(chunk)
            left -= len(chunk)

    listeners[0].say("go")
    async with asyncio.timeout(60):
        await asyncio.gather(*map(listen, listeners, hashes))

    assert {digest.digest() for digest in hashes} == {hashlib.blake2b(expected).digest()}


@pytest.mark.parametrize("size", [900_000, MiB])
async def test_a_message_larger_than_every_pipe_and_buffer_comes_back_from_cat(serve: Serve, size: int) -> None:
    site = await serve(game={"command": ["cat"]})
    ann = await site.join("/game/one")
    message = "".join(map(str, range(size // 5)))[:size]

    await ann.say(message)

    await ann.hear(message)
    await ann.say("and on we go")
    await ann.hear("and on we go")


async def test_4096_messages_in_flight_all_return(serve: Serve) -> None:
    site = await serve(game={"command": ["cat"]})
    ann = await site.join("/game/one")
    messages = numbers(0, 4096, 100)

    for message in messages:
        await ann.say(message)

    await ann.hear(*messages)


async def test_clients_that_all_send_at_once_all_receive_everything(serve: Serve) -> None:
    site = await serve(game={"command": ["cat"]})
    players = [await site.join("/game/one") for _ in range(5)]

    async def shout(name: int, player: Player) -> None:
        for number in range(200):
            await player.say(f"{name} {number} {'x' * 1000}")

    async def listen(player: Player) -> None:
        heard = [str(await player.listen()).split()[:2] for _ in range(5 * 200)]
        for name in range(5):
            assert [number for its, number in heard if its == str(name)] == [str(number) for number in range(200)]

    await asyncio.gather(*itertools.starmap(shout, enumerate(players)), *map(listen, players))


async def test_the_last_output_of_a_program_waits_for_a_client_that_reads_slowly(serve: Serve, tmp_path: Path) -> None:
    site = await serve(game={"command": program("brim", tmp_path / "count"), "stop_timeout": 0.1, "send_buffer": 64 * KiB})
    ann = await site.join("/game/one", receive_buffer=SMALL)
    await site.until((tmp_path / "count").exists)
    await asyncio.sleep(0.4)  # it has ended, its output stands in the pipe, and stop_timeout has passed

    count = int((tmp_path / "count").read_text())
    await hear_numbers(ann, count, 1000)

    assert await ann.wait_closed() == (1000, "the program ended")


# --- A backend that does not read


async def test_a_backend_that_does_not_read_slows_its_clients_down(serve: Serve) -> None:
    site = await serve(game={"command": program("deaf"), "stall_timeout": 30.0, "stop_timeout": 0.1})
    players = [await site.join("/game/one") for _ in range(4)]
    room = site.room("game", "one")

    async def shout(player: Player) -> None:
        for _ in range(10_000):
            await player.say("x" * 10_000)

    shouting = [asyncio.create_task(shout(player)) for player in players]
    await wait_still(lambda: room.counts.bytes_in)

    assert 0 < room.counts.bytes_in < 4 * MiB  # of 400 MB
    assert not any(task.done() for task in shouting)
    for task, player in zip(shouting, players, strict=True):
        task.cancel()
        player.cut()


async def test_a_backend_that_takes_nothing_for_stall_timeout_ends_the_room_with_1011(serve: Serve) -> None:
    site = await serve(game={"command": program("deaf"), "stall_timeout": 0.3, "stop_timeout": 0.1})
    ann = await site.join("/game/one")
    await ann.hear("deaf")

    await ann.say("x" * 500_000)

    assert await ann.wait_closed() == (1011, "the backend does not read")
    await site.wait_no_rooms()


async def test_output_of_a_python_program_arrives_without_a_flush(serve: Serve) -> None:
    site = await serve(game={"command": [sys.executable, "-c", "import sys\nfor line in sys.stdin: print(line, end='')"]})
    ann = await site.join("/game/one")

    await ann.say("hello")

    await ann.hear("hello")


@in_memory
async def test_a_program_that_was_given_messages_and_writes_nothing_gets_one_hint(serve: MemoryServe) -> None:
    async def ready(actor: Actor) -> int:
        await actor.print(b"ready")
        return await PROGRAMS["mute"](actor)

    async def until_end(actor: Actor) -> int:
        async for line in actor.lines():
            if line == b"end":
                break
        return 0

    site = await serve(
        programs={"ready": ready, "until_end": until_end},
        mute={"command": ["mute"]},
        echo={"command": ["cat"]},
        early={"command": ["ready"]},
        again={"command": ["until_end"], "restart": "always"},
    )
    idle = await site.join("/mute/idle")
    echo, early = await site.join("/echo/one"), await site.join("/early/one")
    ann, bob = await site.join("/mute/one"), await site.join("/again/one")
    for player in (echo, early):
        await player.say("hello")
    for _ in range(3):
        await ann.say("hello")
    await bob.say("end")

    await site.until(lambda: len(serve.logged("backend wrote nothing")) == 1)
    await site.until(lambda: site.gateway.pools["again"].status().backend_starts == 2)
    await ann.say("hello")
    await bob.say("mute")
    await site.until(lambda: len(serve.logged("backend wrote nothing")) == 2)
    await idle.say("hello")
    await site.until(lambda: len(serve.logged("backend wrote nothing")) == 3)

    hints = serve.logged("backend wrote nothing")
    assert [(hint["app"], hint["room"], hint["messages"]) for hint in hints] == [
        ("mute", "one", 3),
        ("again", "one", 1),
        ("mute", "idle", 1),
    ]
    assert all("flush" in hint["hint"] for hint in hints)


async def test_a_backend_that_reads_late_gets_everything(serve: Serve) -> None:
    site = await serve(game={"command": program("sleepy", 0.5)})
    ann = await site.join("/game/one")
    messages = numbers(0, 1000, 1000)

    for message in messages:
        await ann.say(message)

    await ann.hear("good night", *messages)


async def test_a_backend_is_not_stalled_while_its_own_output_is_paused(
    serve_express: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `cat` can't read on, because nobody takes what it writes.
    monkeypatch.setattr(flow, "PACE_CHECK", 60.0)
    site = await serve_express(game={"command": ["cat"], "stall_timeout": 1.5, "send_buffer": 4 * MiB})
    ann = await site.join("/game/one", receive_buffer=SMALL)
    messages = numbers(0, 500, 10_000)

    async def shout() -> None:
        for message in messages:
            await ann.say(message)

    shouting = asyncio.create_task(shout())
    await wait_still(lambda: site.room("game", "one").counts.records_out, still=2.0)

    await ann.hear(*messages)
    await shouting


# --- A client that does not read


async def flooded(serve: Serve, *, slow_client: str, width: int = 500, count: int = 20_000, **more: Any) -> Playground:
    """A room whose program prints 10 MB when it reads its first line."""
    settings = {"send_buffer": 64 * KiB, "stop_timeout": 0.1, **more}
    return await serve(game={"command": program("alarm", count, width), "slow_client": slow_client, **settings})


async def test_close_ends_the_client_that_does_not_read_and_the_other_receives_everything(serve: Serve) -> None:
    site = await flooded(serve, slow_client="close")
    slow = await site.join("/game/one", receive_buffer=SMALL)
    ann = await site.join("/game/one")

    await ann.say("go")

    await hear_numbers(ann, 20_000, 500)
    assert site.room("game", "one").counts.slow_clients == 1
    code, reason = await slow.wait_closed()
    assert (code, reason) == (1013, "too slow: more than send_buffer was left unread")


async def test_a_burst_arrives_whole_at_a_client_a_little_slower_than_the_other(serve: Serve) -> None:
    lines, width = 30_000, 1_000
    site = await serve(game={"command": program("alarm", lines, width), "stop_timeout": 0.1})
    slower, ann = await site.join_raw("/game/one"), await site.join_raw("/game/one")

    async def read_all(client: RawClient, pause: float) -> int:
        got = 0
        while got < lines * (width + 4):
            chunk = await client.reader.read(256 * KiB)
            if not chunk:
                break
            got += len(chunk)
            await asyncio.sleep(pause)
        return got

    ann.say("go")
    async with asyncio.timeout(30):
        heard = await asyncio.gather(read_all(ann, 0.0), read_all(slower, 0.002))

    assert min(heard) >= lines * (width + 4)
    assert site.room("game", "one").counts.slow_clients == 0


async def test_a_peer_that_half_closes_and_reads_nothing_is_cut_after_stall_timeout(serve: Serve) -> None:
    site = await serve(game={"command": program("alarm", 4_000, 500), "stall_timeout": 0.3, "send_buffer": 4 * MiB})
    ghost, ann = await site.join_raw("/game/one", receive_buffer=SMALL), await site.join("/game/one")
    room = site.room("game", "one")
    await ann.say("go")
    await hear_numbers(ann, 4_000, 500)
    assert max(unsent(site)) > 0

    ghost.writer.write_eof()

    await site.until(lambda: len(room.clients) == 1)
    connections = site.service.connections
    await site.until(lambda: len(connections.transports) + connections.hypercorn.open_connections == 1)


async def test_close_ends_a_client_that_does_not_read_also_when_it_is_alone(serve: Serve) -> None:
    site = await flooded(serve, slow_client="close")
    slow = await site.join("/game/one", receive_buffer=SMALL)

    await slow.say("go")
    await site.wait_no_rooms()

    assert (await slow.wait_closed())[0] == 1013


async def test_a_client_alone_that_reads_slowly_gets_everything(serve: Serve) -> None:
    site = await flooded(serve, slow_client="close", count=5_000)
    ann = await site.join("/game/one", receive_buffer=SMALL)

    await ann.say("go")

    for number in range(5_000):
        if number % 500 == 0:
            await asyncio.sleep(0.02)
        assert await ann.listen() == f"{number:0500}"


async def test_block_makes_the_backend_wait_until_the_slow_client_has_read(serve: Serve) -> None:
    site = await flooded(serve, slow_client="block", stall_timeout=30.0)
    slow = await site.join("/game/one", receive_buffer=SMALL)
    ann = await site.join("/game/one")
    room = site.room("game", "one")

    await ann.say("go")
    await wait_still(lambda: room.counts.records_out)

    assert 0 < room.counts.records_out < 20_000
    assert max(unsent(site)) <= 64 * KiB + 2 * TO_EACH
    await asyncio.gather(hear_numbers(slow, 20_000, 500), hear_numbers(ann, 20_000, 500))


async def test_block_waits_no_longer_than_stall_timeout(serve: Serve) -> None:
    site = await flooded(serve, slow_client="block", stall_timeout=0.3)
    slow = await site.join("/game/one", receive_buffer=SMALL)
    ann = await site.join("/game/one")

    await ann.say("go")

    await hear_numbers(ann, 20_000, 500)
    assert site.room("game", "one").counts.slow_clients == 1
    slow.cut()


async def test_drop_leaves_out_whole_messages_and_counts_them(serve: Serve) -> None:
    site = await flooded(serve, slow_client="drop")
    slow = await site.join("/game/one", receive_buffer=SMALL)
    ann = await site.join("/game/one")
    room = site.room("game", "one")

    await ann.say("go")
    await hear_numbers(ann, 20_000, 500)
    await site.until(lambda: room.counts.records_out == 20_000)
    assert room.counts.slow_dropped > 0
    heard = [str(await slow.listen()) for _ in range(20_000 - room.counts.slow_dropped)]

    assert all(len(message) == 500 for message in heard)
    assert heard == sorted(set(heard))
    assert room.counts.slow_clients == 0
    await slow.hear_nothing()


async def test_a_newcomer_that_does_not_read_its_history_is_judged_like_any_other(serve: Serve) -> None:
    site = await serve(
        game={
            "command": ["cat"],
            "history": {"size": 1000, "max_bytes": 2 * MiB},
            "send_buffer": 64 * KiB,
            "stop_timeout": 0.1,
        }
    )
    ann = await site.join("/game/one")
    for _ in range(20):
        await ann.say("x" * 100_000)
        await ann.listen()

    slow = await site.join_raw("/game/one", receive_buffer=SMALL)
    for _ in range(100):
        await ann.say("y" * 100_000)
        await ann.listen()

    assert site.room("game", "one").counts.slow_clients == 1
    assert len(site.room("game", "one").clients) == 1
    slow.cut()


async def test_a_newcomer_is_forgiven_a_history_longer_than_send_buffer(serve: Serve) -> None:
    site = await serve(
        game={"command": ["cat"], "history": {"size": 1000, "max_bytes": 2 * MiB}, "send_buffer": 64 * KiB, "stop_timeout": 0.1}
    )
    ann = await site.join("/game/one")
    for number in range(20):
        await ann.say(f"{number:0100000}")
        await ann.listen()

    bob = await site.join("/game/one", receive_buffer=SMALL)
    for number in range(20, 23):
        await ann.say(f"{number:010000}")
        await ann.listen()

    await bob.hear(*numbers(0, 20, 100_000), *numbers(20, 3, 10_000))
    assert site.room("game", "one").counts.slow_clients == 0


async def test_unsent_output_is_bounded_however_much_the_backend_writes(serve: Serve) -> None:
    site = await flooded(serve, slow_client="block", stall_timeout=30.0, count=200_000)
    slow = await site.join_raw("/game/one", receive_buffer=SMALL)
    room = site.room("game", "one")
    most = 0

    def records_out() -> int:
        nonlocal most
        most = max(most, *unsent(site))
        return room.counts.records_out

    slow.say("go")
    await wait_still(records_out)

    assert most <= 64 * KiB + 2 * TO_EACH
    slow.cut()


async def test_clients_that_vanish_during_a_burst_do_not_affect_the_others(serve: Serve) -> None:
    site = await flooded(serve, slow_client="close", send_buffer=16 * MiB)
    ann = await site.join("/game/one")
    others = [await site.join_raw("/game/one") for _ in range(20)]

    async def vanish() -> None:
        for other in others:
            await asyncio.sleep(0.005)
            other.cut()

    await ann.say("go")
    await asyncio.gather(vanish(), hear_numbers(ann, 20_000, 500))

    await site.until(lambda: len(site.room("game", "one").clients) == 1)


# --- Rate


async def test_a_client_over_its_rate_is_slowed_down_and_not_closed(serve: Serve) -> None:
    site = await serve(game={"command": ["cat"], "rate": {"messages": 100, "burst": 20}})
    ann = await site.join("/game/one")
    loop = asyncio.get_running_loop()
    began = loop.time()

    for number in range(70):
        await ann.say(str(number))
        await asyncio.sleep(0)

    await ann.hear(*map(str, range(70)))
    # On the express lane what came in one read is taken in one piece and slept off afterwards.
    await ann.say("and one more")
    await ann.hear("and one more")
    assert loop.time() - began >= 0.45


@pytest.mark.parametrize("rate", [{"messages": 100_000}, None])
async def test_a_higher_rate_counts_at_once_for_those_that_wait(serve: Serve, rate: dict[str, int] | None) -> None:
    game: dict[str, Any] = {"command": ["cat"], "rate": {"messages": 1, "burst": 1}}
    site = await serve(game=game)
    ann = await site.join("/game/one")
    for number in range(60):
        await ann.say(str(number))
    await ann.hear("0")

    site.gateway.apply(site_of({"game": {**game, "rate": rate}}))

    await ann.hear(*map(str, range(1, 60)))
    await ann.say("and one more")
    await ann.hear("and one more")


async def test_bytes_count_too(serve: Serve) -> None:
    site = await serve(game={"command": ["cat"], "rate": {"bytes": 100_000}})
    ann = await site.join("/game/one")
    loop = asyncio.get_running_loop()
    began = loop.time()

    for _ in range(3):
        await ann.say("x" * 50_000)
        await ann.listen()
    await ann.say("one more")
    await ann.listen()

    assert loop.time() - began >= 0.45


async def test_others_do_not_pay_for_a_client_that_is_slowed_down(serve: Serve) -> None:
    site = await serve(game={"command": ["cat"], "rate": {"messages": 1, "burst": 100}})
    loud, ann = await site.join("/game/one"), await site.join("/game/one")
    for _ in range(300):
        await loud.say("me me me")

    await ann.say("may I?")

    await ann.hear_until("may I?")
    loud.cut()


# --- Dead peers (the express lane: on the general one it is the kernel that finds them)


async def test_a_peer_that_answers_no_ping_is_closed_with_1008(serve_express: Serve) -> None:
    site = await serve_express(game={"command": ["cat"], "ping_interval": 0.1, "ping_timeout": 0.2})
    ann = await site.join_raw("/game/one")

    assert (await ann.read_frame()).first == 0x89
    assert await ann.read_close() == (1008, "a ping was not answered within ping_timeout")
    await site.until(lambda: not site.service.connections.transports, within=1.0)  # its descriptor is closed at once


async def test_a_peer_that_answers_pings_stays(serve_express: Serve) -> None:
    site = await serve_express(game={"command": ["cat"], "ping_interval": 0.1, "ping_timeout": 1.3})
    ann = await site.join("/game/one")

    await ann.hear_nothing(within=1.5)

    await ann.say("still here")
    await ann.hear("still here")


async def test_a_peer_that_sends_but_answers_no_ping_stays(serve_express: Serve) -> None:
    site = await serve_express(game={"command": program("notes", "/dev/null"), "ping_interval": 0.1, "ping_timeout": 0.6})
    ann = await site.join_raw("/game/one")

    for _ in range(40):
        ann.say("I am busy")
        await asyncio.sleep(0.025)

    assert len(site.room("game", "one").clients) == 1
    ann.cut()


async def test_a_peer_that_is_not_read_is_not_closed_for_a_missing_pong(serve_express: Serve) -> None:
    site = await serve_express(
        game={"command": program("sleepy", 2.0), "ping_interval": 0.1, "ping_timeout": 1.0, "client_idle_timeout": 1.2}
    )
    ann = await site.join("/game/one")
    messages = numbers(0, 200, 10_000)

    for message in messages:  # which stand before the pongs
        await ann.say(message)

    await ann.hear("good night", *messages)


async def test_a_peer_that_is_not_read_is_still_pinged_so_that_a_vanished_one_is_noticed(serve_express: Serve) -> None:
    site = await serve_express(
        game={"command": program("deaf"), "ping_interval": 0.1, "ping_timeout": 0.2, "stall_timeout": 30.0, "stop_timeout": 0.1}
    )
    ann, eve = await site.join_raw("/game/one"), await site.join_raw("/game/one")
    for _ in range(20):
        eve.send(mask_frame(b"x" * 50_000))
    room = site.room("game", "one")
    await site.until(lambda: all(client.held for client in room.clients.values()))

    ann.cut()

    await site.until(lambda: len(room.clients) == 1)
    eve.cut()


async def test_a_peer_that_reads_slowly_is_not_closed_for_a_missing_pong(serve_express: Serve) -> None:
    site = await flooded(serve_express, slow_client="block", stall_timeout=30.0, ping_interval=0.1, ping_timeout=1.0)
    ann = await site.join("/game/one", receive_buffer=SMALL)

    await ann.say("go")
    await asyncio.sleep(1.5)

    await hear_numbers(ann, 20_000, 500)


async def test_a_slow_but_steady_reader_receives_everything_while_it_also_sends(serve_express: Serve) -> None:
    site = await serve_express(game={"command": program("flood", 8_000, 500), "stop_timeout": 0.3})
    ann = await site.join("/game/one", receive_buffer=64 * KiB)

    for number in range(8_000):
        heard = await ann.listen()
        assert heard == f"{number:0500}", f"heard {heard!r}, expected {number}"
        if number % 100 == 99:  # a megabyte a second
            await asyncio.sleep(0.05)
            if number < 4_000:  # later its library may know of the close already
                await ann.say("still here")

    assert await ann.wait_closed() == (1000, "the program ended")


async def test_a_flood_of_pings_does_not_keep_others_waiting(serve_express: Serve) -> None:
    site = await serve_express(game={"command": ["cat"]})
    ann, eve = await site.join("/game/one"), await site.join_raw("/game/two")
    ping = mask_frame(b"", 9)

    async def flood() -> None:
        while True:
            eve.send(ping * 20_000)
            await eve.writer.drain()

    flooding = asyncio.create_task(flood())
    slowest = 0.0
    for number in range(20):
        before = time.process_time()  # not the clock: neighbours of a busy machine are not the flood
        await ann.say(str(number))
        await ann.hear(str(number))
        slowest = max(slowest, time.process_time() - before)
    flooding.cancel()
    eve.cut()

    assert slowest < 2.0


async def wait_still(count: Any, *, still: float = 0.3) -> None:
    """Wait until a number that grows has stopped growing."""
    async with asyncio.timeout(20):
        seen = -1
        while seen != (now := count()) or now == 0:
            seen = now
            await asyncio.sleep(still)
