"""Floods of HTTP/2 frames from one connection: what they cost others, and how they end. The floods are those of tests/attacks."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import h2.connection
import h2.events
import h2.settings
import pytest
import wsproto.events

from scalesocket.config.model import App
from scalesocket.config.units import KiB
from tests.attacks.http2_floods import FLOODS, Attacker, MiB, make_flood
from tests.playing import DEADLINE, Playground, open_playground
from tests.server.general import make_site
from tests.server.http2 import Http2Client, Http2Websocket, Stream, open_http2

pytestmark = pytest.mark.anyio

LONGEST: Final = 0.025
"""Seconds of CPU time that one event-loop iteration may take during a flood."""
PREAD: Final = os.pread
STREAM_WINDOW: Final = 65_535
"""The default window of a stream in bytes (RFC 9113 6.9.2)."""
ASK: Final = {name for name in FLOODS if name.startswith(("HEADERS", "DATA, small, to a", "DATA, messages", "DATA, large"))}
"""Floods of normal requests: they are only spread over time."""
BREAK: Final = {"PUSH_PROMISE", "GOAWAY", "CONTINUATION", "CONTINUATION, of nothing", "DATA, no such stream", "a frame of 16 MiB"}
"""Floods that break the protocol, or end the connection, before they exceed a limit."""
ENDED: Final = {"RST_STREAM, provoked"}
"""Floods that Hypercorn ends, after 1,000 requests."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def no_collection_of_other_tests() -> Iterator[None]:
    """Exclude the garbage of other tests from collections, which would block the event loop."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def playground(tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Playground]:
    (tmp_path / "big.bin").write_bytes(bytes(MiB))
    echo = App.model_validate({"name": "echo", "command": ["cat"], "static": str(tmp_path)})
    async with open_playground(make_site(echo, http2_websockets=True)) as playground:
        yield playground


async def longest_iteration(attacker: Attacker) -> float:
    """Wait until the flood is over; return the longest event-loop iteration, in seconds of CPU time."""
    longest, before = 0.0, time.thread_time()
    async with asyncio.timeout(20):
        while not attacker.is_over:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
    return longest


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_does_not_block_the_event_loop(playground: Playground, name: str) -> None:
    flood = make_flood(name, MiB // 4 if name in ASK else MiB)
    player = await playground.join("/echo/lobby")
    attacker = Attacker(playground.port, flood, is_polite="websocket" in name)

    attacker.start()
    try:
        longest = await longest_iteration(attacker)
    finally:
        await asyncio.to_thread(attacker.stop)

    assert longest < LONGEST
    await player.say("still here")
    await player.hear("still here")
    if name not in ASK | BREAK | ENDED:
        assert attacker.end == "ENHANCE_YOUR_CALM"


async def test_cutting_a_peer_ends_only_its_own_websockets(playground: Playground) -> None:
    ann = await playground.join("/echo/lobby")
    async with open_http2(playground.port) as http2:
        await http2.join("/echo/lobby")

        for _ in range(1001):
            http2.connection.ping(bytes(8))
        http2.flush()

        await playground.until(lambda: playground.gateway.connections == 1)
    await ann.say("alone")
    await ann.hear("alone")


async def test_pings_and_window_updates_of_a_normal_peer_are_not_a_flood(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        for _ in range(5):
            (status, _), body = await http2.get("/echo/big.bin")
            assert (status, len(body)) == (200, MiB)
            for _ in range(100):
                http2.connection.ping(bytes(8))

        assert (await http2.get("/health"))[0][0] == 200


async def test_data_after_the_response_resets_only_its_stream(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        ann = await http2.join("/echo/lobby")
        late = http2.start("POST", "/health", is_ended=False)
        assert (await late.wait_status())[0] == 405
        await late.read_body()

        await send_late(late)

        await ann.say("still here")
        assert await ann.listen() == "still here"


async def send_late(stream: Stream) -> None:
    await stream.client.send(stream, bytes(1000))


async def test_a_file_is_not_read_ahead_of_the_peers_window(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "pread", lambda *arguments: count_read(sizes, *arguments))
    reader, writer = await asyncio.open_connection("127.0.0.1", playground.port)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    host = f"127.0.0.1:{playground.port}"
    path = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/echo/big.bin")]
    connection.send_headers(1, path, end_stream=True)

    for _ in range(50):  # a window of one byte each time
        connection.increment_flow_control_window(1, 1)
        writer.write(connection.data_to_send())
        received = 0
        while received < 1:
            async with asyncio.timeout(DEADLINE):
                events = connection.receive_data(await reader.read(65536))
            received += sum(event.flow_controlled_length for event in events if isinstance(event, h2.events.DataReceived))

    assert 0 < sum(sizes) <= 4 * 64 * KiB
    writer.close()


def count_read(sizes: list[int], descriptor: int, size: int, at: int) -> bytes:
    """Call os.pread, and record how many bytes it read."""
    chunk = PREAD(descriptor, size, at)
    sizes.append(len(chunk))
    return chunk


async def open_stalled(http2: Http2Client) -> Http2Websocket:
    """A websocket with more data to receive than the window of its stream, which is never updated."""
    websocket = await http2.join("/echo/lobby")
    http2.connection.acknowledge_received_data = lambda *_: None  # type: ignore[method-assign]
    await websocket.say("x" * 200_000)
    received = 0
    while received < STREAM_WINDOW:
        received += len(await websocket.stream.read_chunk())
    http2.connection.increment_flow_control_window(MiB)  # of the connection alone
    http2.flush()
    return websocket


async def ping(websocket: Http2Websocket, times: int) -> None:
    frame = websocket.frames.send(wsproto.events.Ping(bytes(125)))
    await websocket.stream.client.send(websocket.stream, frame * times)


async def test_a_ping_behind_a_closed_window_does_not_stop_the_connection(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        websocket = await open_stalled(http2)

        await ping(websocket, 1)

        assert (await http2.get("/health"))[0][0] == 200


async def test_a_peer_that_pings_and_takes_no_pongs_is_cut(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        websocket = await open_stalled(http2)

        await ping(websocket, 600)

        await playground.until(lambda: playground.gateway.connections == 0)
        await playground.until(lambda: playground.service.connections.hypercorn.open_connections == 0)


async def test_a_peer_that_takes_nothing_does_not_delay_shutdown(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        websocket = await open_stalled(http2)
        room = playground.gateway.pools["echo"].rooms["lobby"]

        for client in tuple(room.clients.values()):
            client.abort()  # as its room does after its deadline
        await playground.until(lambda: playground.gateway.connections == 0)
        await asyncio.wait_for(playground.service.connections.hypercorn.stop(0.1), DEADLINE)
        await playground.until(lambda: playground.service.connections.hypercorn.open_connections == 0)
        websocket.reset()
