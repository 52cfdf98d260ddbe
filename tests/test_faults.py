"""The sixteen faults of the original (Rust scalesocket 0.2.4), which this server must not have."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from scalesocket.config.model import Server
from tests.cli.serving import serving
from tests.conftest import Serve
from tests.playing import Playground, is_alive, program
from tests.ports import free_port
from tests.raw import PING, PONG, mask_frame

pytestmark = pytest.mark.every_combination

CAT: Final[dict[str, Any]] = {"command": ["cat"]}


async def metrics_of(site: Playground) -> list[str]:
    return (await site.get("/metrics"))[1].splitlines()


async def test_fault_1_a_slow_client_loses_nothing(serve: Serve) -> None:
    site = await serve(game={"command": program("alarm", 20_000, 100), "send_buffer": 8_000_000})
    slow = await site.join("/game/one", receive_buffer=4096)
    await slow.say("go")
    await site.until(lambda: site.room("game", "one").counts.records_out > 1000)

    for number in range(20_000):
        assert await slow.listen() == f"{number:0100}"


async def test_fault_2_the_queue_of_a_process_that_does_not_read_is_bounded(serve: Serve) -> None:
    site = await serve(game={"command": program("deaf"), "stall_timeout": 30.0, "stop_timeout": 0.1})
    ann = await site.join("/game/one")

    async def shout() -> None:
        while True:
            await ann.say("x" * 10_000)

    shouting = asyncio.create_task(shout())
    counts, seen = site.room("game", "one").counts, -1
    while seen != counts.bytes_in or not seen:
        seen = counts.bytes_in
        await asyncio.sleep(0.3)

    assert counts.bytes_in < 2_000_000
    shouting.cancel()
    ann.cut()


async def test_fault_3_a_large_message_through_cat_does_not_hang_the_room(serve: Serve) -> None:
    site = await serve(game=CAT)
    ann = await site.join("/game/one")

    await ann.say("x" * 900_000)
    await ann.hear("x" * 900_000)
    for _ in range(160):
        await ann.say("y" * 1000)

    await ann.hear(*["y" * 1000] * 160)


async def test_fault_3_a_process_that_stopped_reading_is_killed(serve: Serve) -> None:
    site = await serve(game={"command": program("deaf"), "stall_timeout": 0.3, "stop_timeout": 0.1})
    ann = await site.join("/game/one")
    await ann.hear("deaf")
    pid = site.room("game", "one").status().pid
    assert pid is not None

    await ann.say("x" * 900_000)

    assert await ann.wait_closed() == (1011, "the backend does not read")
    await site.wait_no_rooms()
    assert not is_alive(pid)


async def test_fault_4_the_history_does_not_replay_private_messages(serve: Serve) -> None:
    site = await serve(game={**CAT, "routing": {"client": "broadcast", "server": "json"}, "history": {"size": 8}})
    ann = await site.join("/game/one")
    await ann.say('{"_to":1,"secret":true}')
    await ann.say('{"public":true}')
    await ann.hear('{"_to":1,"secret":true}', '{"public":true}')

    bob = await site.join("/game/one")

    await bob.hear('{"public":true}')
    await bob.hear_nothing(within=0.05)


async def test_fault_5_pings_and_pongs_are_not_messages(serve: Serve) -> None:
    site = await serve(game=CAT)
    ann = await site.join_raw("/game/one")

    ann.send(mask_frame(b"ping", PING) + mask_frame(b"pong", PONG) + mask_frame(b"message"))

    heard = []
    while not heard or heard[-1] != b"message":
        heard.append((await ann.read_frame()).payload)
    assert set(heard) <= {b"message", b"ping", b""}  # the pong of ours, and a ping of the server's own
    assert site.room("game", "one").counts.messages_in == 1


async def test_fault_6_a_line_that_is_not_utf8_does_not_stall_the_output(serve: Serve) -> None:
    site = await serve(game={"command": ["printf", "a\\n\\377\\nb\\n"]})

    ann = await site.join("/game/one")

    await ann.hear("a", "\ufffd", "b")


async def test_fault_7_the_output_of_a_process_on_a_port_does_not_block_it(serve: Serve) -> None:
    site = await serve(game={"command": program("tcp", "loud"), "port": "auto"})

    ann = await site.join("/game/one")
    await ann.say("half a megabyte was printed before")

    await ann.hear("hello", "half a megabyte was printed before")


async def test_fault_7_ports_are_not_leaked_and_may_run_out(serve: Serve) -> None:
    with_one_port = {"command": program("tcp"), "port": f"{free_port()}", "stop_timeout": 1.0}
    site = await serve(game=with_one_port, broken={**with_one_port, "command": ["false"]})
    for _ in range(3):
        assert (await (await site.join("/broken/one")).wait_closed())[0] == 1011
        await site.wait_no_rooms()

    ann = await site.join("/game/one")
    await ann.hear("hello")
    eve = await site.join("/game/two")

    code, reason = await eve.wait_closed()
    assert code == 1011
    assert "port" in reason
    await ann.say("still here")
    await ann.hear("still here")


async def test_fault_8_the_whole_process_group_is_stopped(serve: Serve) -> None:
    site = await serve(game={"command": program("nest")})
    ann = await site.join("/game/one")
    pids = [int(word) for word in str(await ann.listen()).split()]
    assert len(pids) == 3
    assert all(map(is_alive, pids))

    await ann.leave()

    await site.wait_no_rooms()
    assert site.gateway.pools["game"].status().backend_exits == {"SIGTERM": 1}  # asked first, not killed
    assert not any(map(is_alive, pids))


async def test_fault_9_a_room_opened_again_while_its_process_dies_keeps_history_and_gauge(serve: Serve) -> None:
    lingering = ["sh", "-c", "cat; sleep 0.3"]
    site = await serve(game={"command": lingering, "history": {"size": 8, "persist": True}})
    async with await site.join("/game/one") as ann:
        await ann.say("remember me")
        await ann.hear("remember me")
    await site.until(lambda: "one" not in site.gateway.pools["game"].rooms)

    bob = await site.join("/game/one")

    await bob.hear("remember me")
    assert 'scalesocket_websocket_connections_open{app="game"} 1.0' in await metrics_of(site)
    await bob.say("go on")
    await bob.hear("go on")
    assert site.gateway.pools["game"].connections == 1


async def test_fault_10_after_a_crash_the_gauge_is_zero_and_after_a_failed_start_no_room_is_left(serve: Serve) -> None:
    site = await serve(game={"command": program("crash", 1)}, broken={"command": ["/no/such/program"]})
    for path in ("/game/one", "/broken/one"):
        players = [await site.join(path) for _ in range(2)]
        for player in players:
            await player.wait_closed()
    await site.wait_no_rooms()

    metrics = await metrics_of(site)

    for app in ("game", "broken"):
        assert f'scalesocket_websocket_connections_open{{app="{app}"}} 0.0' in metrics
        assert json.loads((await site.get(f"/{app}/api/rooms/"))[1]) == []


async def test_fault_11_an_ended_room_takes_no_new_clients(serve: Serve) -> None:
    site = await serve(game={"command": ["head", "-n", "1"]})
    ann = await site.join_raw("/game/one")  # who will not answer the close frame, and so stays for a while
    bob = await site.join("/game/one")
    await bob.say("one line and I am gone")
    assert (await bob.wait_closed())[0] == 1000

    eve = await site.join("/game/one")
    await eve.say("alive")

    await eve.hear("alive")
    ann.cut()


async def test_fault_12_the_series_of_a_room_end_with_it(serve: Serve) -> None:
    site = await serve(Server(metrics_rooms=True), game=CAT)
    async with await site.join("/game/one") as ann:
        await ann.say("hello")
        await ann.hear("hello")
        assert any('room="one"' in line for line in await metrics_of(site))

    await site.wait_no_rooms()

    assert not any('room="one"' in line for line in await metrics_of(site))


async def test_fault_13_when_the_process_ends_its_clients_get_a_close_frame(serve: Serve) -> None:
    site = await serve(game={"command": ["true"]})

    ann = await site.join("/game/one")

    assert await ann.wait_closed() == (1000, "the program ended")


async def test_fault_14_invalid_json_does_not_end_the_connection(serve: Serve) -> None:
    site = await serve(game={**CAT, "routing": "json", "join_message": "", "leave_message": ""})
    ann = await site.join("/game/one")

    await ann.say("this is no JSON")
    await ann.say('{"this":"is"}')

    await ann.hear('{"_from":1,"this":"is"}')


@pytest.mark.parametrize("output", ["\\001\\002", "\\000\\000\\000\\000\\011\\000\\000\\000\\001\\000\\000\\000x"])
async def test_fault_15_an_invalid_gwsocket_header_ends_its_room_only(serve: Serve, output: str) -> None:
    site = await serve(game={"command": ["printf", output], "routing": "gwsocket"}, other={**CAT, "routing": "gwsocket"})
    bob = await site.join("/other/one")

    ann = await site.join("/game/one")
    await ann.wait_closed()

    await bob.say("gwsocket input")
    await bob.hear("gwsocket input")


SITE = """
[server]
bind = "127.0.0.1:0"
control = "off"

[apps.game]
command = ["cat"]
"""


def test_fault_16_sighup_does_not_kill_and_shutdown_sends_close_frames(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    with serving("serve", str(tmp_path / "site.toml")) as server:
        with connect(f"ws://127.0.0.1:{server.port}/game/one", proxy=None) as ann:
            ann.send("before")
            assert ann.recv(timeout=10) == "before"

            server.send_signal(signal.SIGHUP)
            ann.send("after")
            assert ann.recv(timeout=10) == "after"
            server.send_signal(signal.SIGTERM)

            with pytest.raises(ConnectionClosed) as closed:
                ann.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server is shutting down")
        assert server.wait_ended() == 0
