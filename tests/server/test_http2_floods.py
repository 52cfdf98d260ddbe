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
"""Seconds of processor time that one iteration of the event loop may take while a flood is read."""
PREAD: Final = os.pread
STREAM_WINDOW: Final = 65_535
"""Bytes of a stream that a peer takes which says nothing else (RFC 9113 6.9.2)."""
ASK: Final = {name for name in FLOODS if name.startswith(("HEADERS", "DATA, small, to a", "DATA, messages", "DATA, large"))}
"""Floods of what others ask for, too: these are only spread over time."""
BREAK: Final = {"PUSH_PROMISE", "GOAWAY", "CONTINUATION", "CONTINUATION, of nothing", "DATA, no such stream", "a frame of 16 MiB"}
"""Floods that break the protocol, or end the connection, before they are too much."""
ENDED: Final = {"RST_STREAM, provoked"}
"""Floods that Hypercorn ends, after 1,000 requests."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def no_collection_of_other_tests() -> Iterator[None]:
    """Keep the garbage collector from what other tests have left: it would take longer than the loop may."""
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
    """Wait until the flood is over; return the most processor time of one iteration of the event loop, in seconds."""
    longest, before = 0.0, time.thread_time()
    async with asyncio.timeout(20):
        while not attacker.is_over:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
    return longest


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_holds_up_nobody(playground: Playground, name: str) -> None:
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


async def test_a_peer_that_is_cut_loses_its_websockets_and_no_other(playground: Playground) -> None:
    ann = await playground.join("/echo/lobby")
    async with open_http2(playground.port) as http2:
        await http2.join("/echo/lobby")

        for _ in range(1001):
            http2.connection.ping(bytes(8))
        http2.flush()

        await playground.until(lambda: playground.gateway.connections == 1)
    await ann.say("alone")
    await ann.hear("alone")


async def test_pings_and_window_updates_of_an_honest_peer_are_never_too_many(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        for _ in range(5):
            (status, _), body = await http2.get("/echo/big.bin")
            assert (status, len(body)) == (200, MiB)
            for _ in range(100):
                http2.connection.ping(bytes(8))

        assert (await http2.get("/health"))[0][0] == 200


async def test_data_after_the_answer_resets_its_stream_alone(playground: Playground) -> None:
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


async def test_what_a_peer_does_not_take_is_not_read_from_the_file(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "pread", lambda *arguments: count_read(sizes, *arguments))
    reader, writer = await asyncio.open_connection("127.0.0.1", playground.port)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    host = f"127.0.0.1:{playground.port}"
    path = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/echo/big.bin")]
    connection.send_headers(1, path, end_stream=True)

    for _ in range(50):  # one byte each time
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
    """Read as os.pread does, and note how much."""
    chunk = PREAD(descriptor, size, at)
    sizes.append(len(chunk))
    return chunk


async def open_stalled(http2: Http2Client) -> Http2Websocket:
    """A websocket with far more to receive than its peer takes: the window stays as it is."""
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


async def test_a_peer_that_takes_nothing_does_not_delay_the_stop(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        websocket = await open_stalled(http2)
        room = playground.gateway.pools["echo"].rooms["lobby"]

        for client in tuple(room.clients.values()):
            client.abort()  # as its room does at the end, when it has waited long enough
        await playground.until(lambda: playground.gateway.connections == 0)
        await asyncio.wait_for(playground.service.connections.hypercorn.stop(0.1), DEADLINE)
        await playground.until(lambda: playground.service.connections.hypercorn.open_connections == 0)
        websocket.reset()
