"""What differs for websockets on the general lane: limits, backpressure, and the end of connections."""

import asyncio
import gc
import socket
import time
from contextlib import closing
from typing import Any

import pytest
from websockets import ConnectionClosed

from scalesocket.config.model import App
from scalesocket.errors import ROOM_RESTARTED
from scalesocket.server import general as general_lane
from scalesocket.server.general import GeneralClient
from tests.playing import DEADLINE, keep_alive_connection, open_playground, program, site_of, until
from tests.raw import FIN, PING, TEXT
from tests.server.general import General, make_site, open_general

pytestmark = pytest.mark.anyio

UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: SGVsbG8sIHdvcmxkIQ==\r\n\r\n"
)
MASK = bytes(4)


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


def text_frame(payload: bytes) -> bytes:
    """A masked, final text frame."""
    size = len(payload)
    header = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return header + MASK + payload


async def open_mute(general: General, path: str) -> socket.socket:
    """A websocket whose client reads only the response to its upgrade."""
    loop = asyncio.get_running_loop()
    sock: socket.socket = await keep_alive_connection(general.playground.port)
    await loop.sock_sendall(sock, UPGRADE % path.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await loop.sock_recv(sock, 1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return sock


# --- Messages


async def test_compression_is_declined() -> None:
    async with open_general(App(name="game", command=["cat"], compression=True)) as general:
        sock = await keep_alive_connection(general.playground.port)
        with closing(sock):
            offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(sock, UPGRADE.removesuffix(b"\r\n") % b"/game/one" + offer)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await asyncio.get_running_loop().sock_recv(sock, 1)

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"permessage-deflate" not in head


async def test_a_message_longer_than_the_apps_limit_closes_with_1009() -> None:
    # Hypercorn has one limit for all apps. The client checks the limit of its app, in bytes, not in characters.
    small, large = App(name="small", command=["cat"], max_message=1000), App(name="large", command=["cat"])

    async with open_general(small, large) as general:
        ann, bob = await general.join("/small/lobby"), await general.join("/small/lobby")
        await ann.say("x" * 1000)
        await bob.hear("x" * 1000)
        await ann.say("x" * 1001)
        await bob.say("ü" * 501)

        assert await ann.wait_closed() == (1009, "the message is longer than max_message (1000 bytes)")
        assert (await bob.wait_closed())[0] == 1009


async def test_a_message_longer_than_every_limit_closes_with_1009() -> None:
    async with open_general(App(name="small", command=["cat"], max_message=1000)) as general:
        ann = await general.join("/small/lobby")
        await ann.say("x" * 2000)

        assert (await ann.wait_closed())[0] == 1009
        await general.wait_no_connections()


async def test_a_new_limit_applies_to_an_open_websocket() -> None:
    large = App(name="large", command=["cat"])

    async with open_general(App(name="small", command=["cat"]), large) as general:
        ann = await general.join("/small/lobby")
        general.gateway.apply(make_site(App(name="small", command=["cat"], max_message=10), large))
        await ann.say("x" * 11)

        assert (await ann.wait_closed())[0] == 1009


async def test_a_binary_message_to_a_text_app_is_text_or_closes_with_1007() -> None:
    async with open_general(App(name="chat", command=["cat"])) as general:
        ann = await general.join("/chat/lobby")
        await ann.say("grüße".encode())
        await ann.hear("grüße")
        await ann.say(b"\xff")

        assert (await ann.wait_closed())[0] == 1007


async def test_a_binary_app_keeps_binary_messages() -> None:
    async with open_general(App(name="raw", command=["cat"], binary=True)) as general:
        ann = await general.join("/raw/lobby")
        await ann.say(b"\xff\x00")

        await ann.hear(b"\xff\x00")


async def test_empty_messages_arrive() -> None:
    async with open_general(App(name="chat", command=["cat"])) as general:
        ann = await general.join("/chat/lobby")
        await ann.say("")
        await ann.say(b"")

        await ann.hear("", "")


# --- Flow


async def test_a_client_that_does_not_read_is_closed_and_cut() -> None:
    flood = App(name="flood", command=program("flood", 20_000, 1000), send_buffer=64 * 1024, stall_timeout=0.3, idle_timeout=5)

    async with open_general(flood) as general:
        # A second client that reads keeps the room from waiting for the first one.
        with closing(await open_mute(general, "/flood/lobby")):
            bob = await general.join("/flood/lobby")
            heard = await bob.hear_until(f"{19_999:01000}")
            await general.playground.until(lambda: general.connections == 1)

        assert heard[-1] == f"{19_999:01000}"
        assert general.gateway.status().apps[0].counts.slow_clients == 1


async def test_empty_messages_count_as_unsent() -> None:
    async with open_general(App(name="blank", command=["yes", ""], stop_timeout=0.2)) as general:
        with closing(await open_mute(general, "/blank/lobby")):
            [client] = general.playground.room("blank", "lobby").clients.values()

            await until(lambda: client.is_congested)


async def test_sending_many_messages_does_not_block_the_event_loop() -> None:
    blank = App(name="blank", command=["yes", ""], stop_timeout=0.2)

    async with open_general(blank, App(name="chat", command=["cat"])) as general:
        bob = await general.join("/chat/lobby")
        with closing(await open_mute(general, "/blank/lobby")):
            counts = general.playground.room("blank", "lobby").counts
            slowest, rounds_after = 0.0, 0
            while rounds_after < 20:
                before = time.process_time()  # not the clock, which also counts other processes
                await bob.say("still there?")
                await bob.hear("still there?")
                slowest = max(slowest, time.process_time() - before)
                rounds_after += counts.messages_out > 50_000
        assert slowest < 0.5


async def test_sent_messages_no_longer_count_as_unsent() -> None:
    lines = App(name="lines", command=["sh", "-c", "yes '' | head -n 1000; echo end; exec cat"], stop_timeout=0.2)

    async with open_general(lines) as general:
        ann = await general.join("/lines/lobby")
        [client] = general.playground.room("lines", "lobby").clients.values()
        assert len(await ann.hear_until("end")) == 1001

        await until(lambda: client.unsent == 0)


async def test_a_backend_that_does_not_read_stops_its_clients_and_ends_the_room() -> None:
    async with open_general(App(name="deaf", command=program("deaf"), stall_timeout=0.5, stop_timeout=0.2)) as general:
        ann = await general.join("/deaf/lobby")
        await ann.hear("deaf")
        flooding = asyncio.create_task(say_much(ann))

        code, reason = await ann.wait_closed()

        flooding.cancel()
        await asyncio.wait([flooding])
        assert (code, reason) == (1011, "the backend does not read")


async def say_much(player: Any) -> None:
    for number in range(100_000):
        await player.say(f"{number:01000}")


async def test_a_client_over_its_rate_is_slowed_and_loses_nothing() -> None:
    app = App(name="chat", command=["cat"], rate={"messages": 50, "burst": 5})

    async with open_general(app) as general:
        ann = await general.join("/chat/lobby")
        started = asyncio.get_running_loop().time()
        for number in range(20):
            await ann.say(str(number))
        await ann.hear(*map(str, range(20)))

        assert asyncio.get_running_loop().time() - started >= 0.25


# --- The upgrade


@pytest.mark.parametrize(
    "field", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5"]
)
async def test_an_upgrade_with_a_body_is_400(field: bytes) -> None:
    loop = asyncio.get_running_loop()

    async with open_general(App(name="chat", command=["cat"])) as general:
        with closing(await keep_alive_connection(general.playground.port)) as sock:
            await loop.sock_sendall(sock, UPGRADE.removesuffix(b"\r\n") % b"/chat/lobby" + field + b"\r\n\r\n")
            answer = await loop.sock_recv(sock, 4096)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert general.gateway.refusals == {"bad_handshake": 1}


async def test_data_before_the_response_leaves_no_client_behind() -> None:
    loop = asyncio.get_running_loop()

    async with open_general(App(name="chat", command=["cat"])) as general:
        with closing(await keep_alive_connection(general.playground.port)) as sock:
            await loop.sock_sendall(sock, UPGRADE % b"/chat/lobby" + text_frame(b"early"))
            answer = b""
            async with asyncio.timeout(DEADLINE):
                while chunk := await loop.sock_recv(sock, 4096):
                    answer += chunk

        assert answer.startswith(b"HTTP/1.1 400 ")
        await general.wait_no_connections()
        assert general.gateway.connections == 0


@pytest.mark.parametrize("part", [b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key"])
async def test_a_malformed_upgrade_ends_its_connection(part: bytes) -> None:
    loop = asyncio.get_running_loop()

    async with open_general(App(name="chat", command=["cat"])) as general:
        with closing(await keep_alive_connection(general.playground.port)) as sock:
            await loop.sock_sendall(sock, (UPGRADE % b"/chat/lobby").replace(part, b"X: y"))
            async with asyncio.timeout(DEADLINE):
                assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 400 ")
                assert await loop.sock_recv(sock, 4096) == b""

        await general.wait_no_connections()


# --- End of connections


async def test_a_client_that_leaves_while_over_its_rate_is_freed() -> None:
    def general_clients() -> list[GeneralClient]:
        gc.collect()
        return [one for one in gc.get_objects() if isinstance(one, GeneralClient)]

    async with open_general(App(name="chat", command=["cat"], rate={"bytes": 10})) as general:
        ann = await general.join("/chat/lobby")
        await ann.say("x" * 1000)  # the next message would be read after more than a minute
        await until(lambda: bool(general_clients()[0].held))
        await ann.leave()

        await until(lambda: not general_clients())


async def test_a_client_that_keeps_sending_after_our_close_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general_lane, "CLOSE_TIMEOUT", 0.2)
    loop = asyncio.get_running_loop()

    async with open_general(App(name="chat", command=["cat"])) as general:
        with closing(await open_mute(general, "/chat/lobby")) as sock:
            await loop.sock_sendall(sock, text_frame(b"x"))
            await until(lambda: general.gateway.connections == 1)
            general.playground.room("chat", "lobby").stop(ROOM_RESTARTED)
            flooding = asyncio.create_task(send_for_ever(sock))

            await general.wait_no_connections()

            flooding.cancel()
            await asyncio.wait([flooding])


async def send_for_ever(sock: socket.socket) -> None:
    frames = text_frame(b"x" * 100) * 100
    while True:
        await asyncio.get_running_loop().sock_sendall(sock, frames)


async def test_a_client_that_disconnects_leaves_its_room() -> None:
    async with open_general(App(name="chat", command=["cat"], routing="json")) as general:
        ann = await general.join("/chat/lobby")
        await ann.hear('{"t":"Join","_from":1,"_event":"join"}')
        bob = await general.join("/chat/lobby")
        await bob.hear('{"t":"Join","_from":2,"_event":"join"}')

        ann.connection.transport.abort()

        await bob.hear('{"t":"Leave","_from":1,"_event":"leave"}')
        await general.playground.until(lambda: general.connections == 1)


async def test_a_client_that_disconnects_while_its_room_is_paused_is_freed() -> None:
    async with open_general(App(name="deaf", command=program("deaf"), stall_timeout=0.5, stop_timeout=0.2)) as general:
        ann = await general.join("/deaf/lobby")
        flooding = asyncio.create_task(say_much(ann))
        await until(lambda: bool(next(iter(general.playground.room("deaf", "lobby").clients.values())).held))

        ann.connection.transport.abort()

        await asyncio.wait([flooding])
        assert isinstance(flooding.exception(), ConnectionClosed)
        await general.wait_no_connections()
        await general.playground.wait_no_rooms()


async def test_a_refusal_has_a_reason_and_a_time_to_retry() -> None:
    async with open_general(App(name="chat", command=["cat"])) as general:
        await general.gateway.drain()
        with closing(await keep_alive_connection(general.playground.port)) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, UPGRADE % b"/chat/lobby")
            answer = b""
            while chunk := await loop.sock_recv(sock, 4096):
                answer += chunk

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5" in head.lower()
    assert body == b"the server is shutting down\n"


async def test_ten_cycles_leave_nothing_behind() -> None:
    async with open_general(App(name="chat", command=["cat"])) as general:
        tasks_before = len(asyncio.all_tasks())
        for _ in range(10):
            ann = await general.join("/chat/lobby")
            await ann.leave()
        await general.wait_no_connections()
        await general.playground.wait_no_rooms()

        await until(lambda: len(asyncio.all_tasks()) <= tasks_before)
        assert general.gateway.connections == 0


async def test_idle_connections_end_with_the_service() -> None:
    loop = asyncio.get_running_loop()

    async with open_playground(make_site(App(name="chat", command=["cat"])), "general") as playground:
        sock = await keep_alive_connection(playground.port)
        started = loop.time()

    with closing(sock):
        assert await loop.sock_recv(sock, 1) == b""
        assert loop.time() - started < 0.9


async def test_the_ping_interval_of_one_app_does_not_affect_others(anyio_backend: object) -> None:
    hasty = {"command": ["cat"], "ping_interval": 0.05}
    async with open_playground(site_of({"hasty": hasty, "game": {"command": ["cat"]}}), "general") as site:
        eve, ann = await site.join_raw("/hasty/one"), await site.join_raw("/game/one")

        for _ in range(5):
            assert (await eve.read_frame()).opcode == PING

        assert (await ann.read_frame()).opcode == PING  # the ping at the start
        ann.say("no more")
        assert await ann.read_frame() == (FIN | TEXT, b"no more")
