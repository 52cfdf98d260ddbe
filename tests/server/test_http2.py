"""HTTP/2: requests, and websockets in streams of one connection (RFC 8441)."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from h2.settings import SettingCodes
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState
from priority.priority import DeadlockError, DuplicateStreamError, MissingStreamError

from scalesocket.config.model import App
from scalesocket.server.asgi import GeneralLane
from scalesocket.server.hypercorn import server as hypercorn_server
from scalesocket.server.hypercorn.http2 import NO_HTTP2, Http2, KnownSettings, RoundRobin
from scalesocket.wire.http2 import PREFACE, ErrorCode, FrameType, encode_frame_header, encode_refusal
from tests.playing import DEADLINE, Playground, keep_alive_connection, open_playground
from tests.raw import mask_frame
from tests.server.general import make_site
from tests.server.http2 import Http2Client, Stream, open_http2

pytestmark = pytest.mark.anyio

CHAT = App(name="chat", command=["cat"])
FULL = App(name="full", command=["cat"], max_clients=1)


@pytest.fixture
async def playground(anyio_backend: Any) -> AsyncIterator[Playground]:
    async with open_playground(make_site(CHAT, FULL, http2_websockets=True)) as playground:
        yield playground


@pytest.fixture
async def http2(playground: Playground) -> AsyncIterator[Http2Client]:
    async with open_http2(playground.port) as client:
        yield client


async def test_requests_are_answered(http2: Http2Client) -> None:
    (status, headers), body = await http2.get("/health")

    assert (status, body) == (200, b'{"status":"ok"}')
    assert headers["content-type"] == "application/json"


async def test_a_websocket_joins_its_room(http2: Http2Client, playground: Playground) -> None:
    ann = await http2.join("/chat/lobby")
    bob = await playground.join("/chat/lobby")

    await ann.say("hello")

    assert await ann.listen() == "hello"
    await bob.hear("hello")


async def test_websockets_share_a_connection_and_stay_apart(http2: Http2Client) -> None:
    ann, bob = await http2.join("/chat/one"), await http2.join("/chat/two")

    await ann.say("for one")
    await bob.say("for two")

    assert await ann.listen() == "for one"
    assert await bob.listen() == "for two"


async def test_a_message_longer_than_every_window_is_echoed(http2: Http2Client) -> None:
    ann = await http2.join("/chat/lobby")
    message = "0123456789abcdef" * 16_000

    await ann.say(message)

    assert await ann.listen() == message


async def test_a_binary_message_to_a_text_app_is_text(http2: Http2Client) -> None:
    ann = await http2.join("/chat/lobby")

    await ann.say("grüße".encode())

    assert await ann.listen() == "grüße"


async def test_data_before_the_response_leaves_no_client_behind(http2: Http2Client, playground: Playground) -> None:
    ann = http2.start("CONNECT", "/chat/lobby", (":protocol", "websocket"), ("sec-websocket-version", "13"), is_ended=False)
    await http2.send(ann, mask_frame(b"early"))

    (status, _) = await ann.wait_status()
    if status == 200:  # the response came before the data
        http2.connection.reset_stream(ann.number)
        http2.flush()

    assert status in {200, 400}
    await playground.wait_no_rooms()
    assert playground.gateway.connections == 0
    assert (await http2.get("/health"))[0][0] == 200


async def test_requests_are_answered_beside_a_websocket(http2: Http2Client) -> None:
    ann = await http2.join("/chat/lobby")

    (status, _), body = await http2.get("/chat/api/lobby/connections")

    assert (status, body) == (200, b"1")
    await ann.say("still here")
    assert await ann.listen() == "still here"


async def test_a_refusal_is_an_http_status(http2: Http2Client) -> None:
    (unknown, _), _ = await http2.open_websocket("/nobody/lobby")
    (foreign, _), _ = await http2.open_websocket("/chat/lobby", ("origin", "https://elsewhere.example"))

    assert (unknown, foreign) == (404, 403)


async def test_a_full_room_closes_with_1013(http2: Http2Client) -> None:
    await http2.join("/full/lobby")

    late = await http2.join("/full/lobby")

    assert await late.wait_closed() == (1013, "the room is full")


async def test_a_stream_that_is_reset_leaves_its_room(http2: Http2Client, playground: Playground) -> None:
    ann, bob = await http2.join("/chat/lobby"), await http2.join("/chat/lobby")

    ann.reset()

    await playground.until(lambda: playground.gateway.connections == 1)
    await bob.say("alone")
    assert await bob.listen() == "alone"


async def test_a_connection_that_is_lost_leaves_every_room(playground: Playground) -> None:
    async with open_http2(playground.port) as http2:
        await http2.join("/chat/one")
        await http2.join("/chat/two")

    await playground.until(lambda: playground.gateway.connections == 0)
    await playground.wait_no_rooms()


async def test_shutdown_closes_with_1001_and_refuses_with_503(http2: Http2Client, playground: Playground) -> None:
    ann = await http2.join("/chat/lobby")

    await playground.gateway.drain()

    assert await ann.wait_closed() == (1001, "the server is shutting down")
    (status, headers), _ = await http2.open_websocket("/chat/lobby")
    assert (status, int(headers["retry-after"]) > 0) == (503, True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_tls_offers_http2_by_alpn(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(certificate))
    trust.set_alpn_protocols(["h2", "http/1.1"])

    async with (
        open_playground(
            make_site(CHAT, tls={"certificate": str(certificate), "key": str(key)}, http2_websockets=True)
        ) as playground,
        open_http2(playground.port, tls=trust) as http2,
    ):
        assert http2.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        ann = await http2.join("/chat/lobby")
        await ann.say("hello")
        assert await ann.listen() == "hello"
        assert (await http2.get("/health"))[0][0] == 200


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    certificate, key = folder / "site.pem", folder / "site.key"
    wanted = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    words = [*wanted.split(), "-addext", "subjectAltName=DNS:localhost", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    return certificate, key


async def test_a_connection_without_a_request_is_cut(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypercorn_server, "KEEP_ALIVE", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", playground.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))

    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            await reader.read(-1)
            assert reader.at_eof()

    writer.close()


async def test_websockets_are_off_by_default(anyio_backend: Any) -> None:
    async with open_playground(make_site(CHAT)) as playground, open_http2(playground.port) as http2:
        async with asyncio.timeout(DEADLINE):
            await http2.settings.wait()

        assert SettingCodes.ENABLE_CONNECT_PROTOCOL not in http2.server_settings
        refused = http2.start("CONNECT", "/chat/lobby", (":protocol", "websocket"), is_ended=False)
        status, _ = await refused.wait_status()
        assert (status, b"http2_websockets = true" in await refused.read_body()) == (501, True)
        assert playground.gateway.refusals["http2_connect"] == 1
        assert (await http2.get("/health"))[0][0] == 200


async def test_a_connect_tunnel_is_refused(http2: Http2Client) -> None:
    number = http2.connection.get_next_available_stream_id()
    tunnel = http2.streams[number] = Stream(http2, number)
    http2.connection.send_headers(number, [(":method", "CONNECT"), (":authority", "elsewhere.example:443")])
    http2.flush()

    assert (await tunnel.wait_status())[0] == 501
    assert (await http2.get("/health"))[0][0] == 200


@pytest.mark.parametrize("is_first", [True, False])
async def test_an_upgrade_to_h2c_is_ignored(playground: Playground, is_first: bool) -> None:
    sock = await (playground.connect() if is_first else keep_alive_connection(playground.port))
    reader, writer = await asyncio.open_connection(sock=sock)

    writer.write(
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )

    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    writer.close()
    assert (answer.startswith(b"HTTP/1.1 200 "), answer.endswith(b'{"status":"ok"}')) == (True, True)


async def test_a_connection_of_http1_does_not_become_http2(playground: Playground) -> None:
    reader, writer = await asyncio.open_connection(sock=await keep_alive_connection(playground.port))

    writer.write(PREFACE + encode_frame_header(0, FrameType.SETTINGS))

    async with asyncio.timeout(DEADLINE):
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")
    writer.close()


@pytest.mark.parametrize(
    ("client", "trusted", "ssl", "is_served"),
    [
        ("203.0.113.5", [], False, False),
        ("2001:db8::5", [], False, False),
        ("203.0.113.5", [], True, True),
        ("203.0.113.5", ["203.0.113.0/24"], False, True),
        ("127.0.0.1", [], False, True),
        ("::1", [], False, True),
        ("::ffff:127.0.0.1", [], False, True),
        (None, [], False, True),
    ],
)
async def test_http2_without_tls_is_only_for_proxies_and_the_same_machine(
    anyio_backend: Any, client: str | None, trusted: list[str], ssl: bool, is_served: bool
) -> None:
    sent = bytearray()

    async def send(event: Event) -> None:
        if isinstance(event, RawData):
            sent.extend(event.data)

    async with open_playground(make_site(CHAT, trusted_proxies=trusted)) as playground:
        loop = asyncio.get_running_loop()
        app = ASGIWrapper(cast(Any, GeneralLane(playground.gateway, cast(Any, None))))
        async with TaskGroup(loop) as tasks:
            address = (client, 40000) if client else None
            http2 = Http2(app, Config(), WorkerContext(None), tasks, ConnectionState({}), ssl, address, None, send)
            await http2.initiate()
            await http2.handle(RawData(PREFACE + encode_frame_header(0, FrameType.SETTINGS)))
            await http2.handle(Closed())

    assert (b"trusted_proxies" not in sent) == is_served
    if not is_served:
        assert sent == encode_refusal(ErrorCode.HTTP_1_1_REQUIRED, NO_HTTP2)


def test_unknown_settings_are_dropped() -> None:
    settings = KnownSettings(client=True)

    settings.update({SettingCodes.INITIAL_WINDOW_SIZE: 1000, 0x4A4A: 7})
    settings.acknowledge()

    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == 1000
    assert 0x4A4A not in settings


def test_streams_are_sent_in_rotation() -> None:
    streams = RoundRobin()
    for stream in (1, 3, 5, 7):
        streams.insert_stream(stream)
    streams.block(3)
    streams.remove_stream(5)

    turns = [next(streams) for _ in range(4)]
    streams.block(1)
    streams.unblock(3)
    turns += [next(streams) for _ in range(3)]

    assert turns == [1, 7, 1, 7, 7, 3, 7]
    streams.block(3)
    streams.block(7)
    with pytest.raises(DeadlockError):
        next(streams)
    with pytest.raises(MissingStreamError):
        streams.unblock(5)
    with pytest.raises(DuplicateStreamError):
        streams.insert_stream(7)
