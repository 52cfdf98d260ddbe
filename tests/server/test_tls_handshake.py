"""What precedes a TLS handshake in clear text: nothing, a PROXY header, or a request that lacks TLS."""

import asyncio
import shutil
import ssl
import struct
from pathlib import Path
from typing import Any, Final

import pytest

from scalesocket.config.model import Server
from tests.conftest import Serve
from tests.playing import DEADLINE, Playground
from tests.raw import RawClient, upgrade
from tests.server.test_expiry import make_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")

TEXT: Final = b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 443\r\n"
ADDRESSES: Final = bytes((192, 0, 2, 1, 192, 0, 2, 9)) + struct.pack("!HH", 4711, 443)
BINARY: Final = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(ADDRESSES)) + ADDRESSES
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def serve_tls(serve: Serve, folder: Path, **server: Any) -> Playground:
    settings = {"trusted_proxies": ["127.0.0.1/32"], "handshake_timeout": "1h", **server}
    secure = make_certificate(folder, days=2)
    return await serve(Server.model_validate({"tls": secure.tls, **settings}), game={"command": ["cat"]})


async def connect(site: Playground, *parts: bytes) -> RawClient:
    """Connect and send parts in clear text, each in a packet of its own."""
    client = await RawClient.connect(site.port)
    site.raw_clients.append(client)
    for part in parts:
        client.send(part)
        await client.writer.drain()
        await asyncio.sleep(0.01)
    return client


async def start_tls(client: RawClient, folder: Path) -> None:
    context = ssl.create_default_context(cafile=folder / "site.pem")
    context.check_hostname = False
    async with asyncio.timeout(DEADLINE):
        await client.writer.start_tls(context)


async def read_end(client: RawClient) -> bytes:
    """Read until the server closes or resets the connection."""
    answer = b""
    try:
        async with asyncio.timeout(DEADLINE):
            while chunk := await client.reader.read(4096):
                answer += chunk
    except ConnectionResetError:
        pass
    return answer


def remotes(site: Playground) -> set[str]:
    return {client.remote for client in site.room("game", "one").clients.values()}


# --- PROXY headers


@pytest.mark.parametrize("header", [TEXT, BINARY], ids=["v1", "v2"])
async def test_a_proxy_header_before_tls_has_the_clients_address(serve_express: Serve, tmp_path: Path, header: bytes) -> None:
    site = await serve_tls(serve_express, tmp_path)

    async def join(at: int) -> None:
        ann = await connect(site, header[:at], header[at:])
        await start_tls(ann, tmp_path)
        ann.send(upgrade("/game/one"))
        assert (await ann.read_head()).startswith("HTTP/1.1 101 ")

    await asyncio.gather(*(join(at) for at in range(len(header))))

    assert remotes(site) == {"192.0.2.1:4711"}
    assert site.gateway.status().refusals == {}


async def test_the_header_and_the_handshake_may_come_at_once(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_tls(serve_express, tmp_path)
    ann = await RawClient.connect(site.port)
    site.raw_clients.append(ann)

    ann.send(BINARY)
    await start_tls(ann, tmp_path)
    ann.send(HEALTH)
    await ann.read_head()
    await ann.reader.readexactly(len('{"status":"ok"}'))
    ann.send(upgrade("/game/one"))
    await ann.read_head()

    assert remotes(site) == {"192.0.2.1:4711"}


async def test_connections_of_the_proxy_itself_keep_its_address(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_tls(serve_express, tmp_path)
    for header in (b"PROXY UNKNOWN\r\n", BINARY[:12] + b"\x20\x00\x00\x00"):
        ann = await connect(site, header)
        await start_tls(ann, tmp_path)
        ann.send(upgrade("/game/one"))
        await ann.read_head()

    assert {remote.partition(":")[0] for remote in remotes(site)} == {"127.0.0.1"}


WRONG = {
    "malformed": b"PROXY TCP4 rubbish\r\n",
    "endless": b"PROXY TCP4 " + b"1" * 200,
    "too long": BINARY[:14] + b"\xff\xff" + bytes(600),
    "malformed v2": BINARY[:12] + b"\x11\x11\x00\x0c" + ADDRESSES,
}


@pytest.mark.parametrize("header", WRONG.values(), ids=WRONG)
async def test_a_wrong_header_ends_its_connection_and_is_counted_and_logged_once(
    serve_express: Serve, tmp_path: Path, header: bytes
) -> None:
    site = await serve_tls(serve_express, tmp_path)

    for _ in range(2):
        assert await read_end(await connect(site, header)) == b""

    assert site.gateway.status().refusals == {"proxy_header": 2}
    logged = [event for event in serve_express.events if event["event"] == "PROXY header refused"]
    assert [event["peer"] for event in logged] == ["127.0.0.1"]
    assert not site.service.connections.tls_handshakes


@pytest.mark.parametrize("header", [TEXT, BINARY], ids=["v1", "v2"])
async def test_a_header_of_a_peer_that_is_not_trusted_is_refused(serve_express: Serve, tmp_path: Path, header: bytes) -> None:
    site = await serve_tls(serve_express, tmp_path, trusted_proxies=["192.0.2.0/24"])

    assert await read_end(await connect(site, header)) == b""

    assert site.gateway.status().refusals == {"proxy_header": 1}
    (logged,) = [event for event in serve_express.events if event["event"] == "PROXY header refused"]
    assert "trusted_proxies" in logged["error"]


@pytest.mark.parametrize("sent", [b"", TEXT[:20], BINARY[:20], TEXT, b"\x16"], ids=["nothing", "v1", "v2", "no TLS", "a byte"])
async def test_header_and_handshake_have_one_deadline(serve_express: Serve, tmp_path: Path, sent: bytes) -> None:
    site = await serve_tls(serve_express, tmp_path, handshake_timeout="300ms")
    loop = asyncio.get_running_loop()
    begun = loop.time()

    await read_end(await connect(site, sent))

    assert loop.time() - begun < DEADLINE / 2
    await site.until(lambda: not site.service.connections.tls_handshakes)


async def test_peers_that_leave_before_the_handshake_leave_nothing_behind(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_tls(serve_express, tmp_path)
    for sent in (b"", TEXT[:20], BINARY[:20], TEXT):
        (await connect(site, sent)).cut()

    await site.until(lambda: not site.service.connections.tls_handshakes and not site.service.connections.transports)


# --- Clear text


REQUESTS = {
    "a request": (HEALTH,),
    "an upgrade": (upgrade("/game/one"),),
    "in pieces": (b"P", b"OST / HTTP/1.1\r\n"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
    "after a PROXY header": (TEXT, HEALTH),
}


@pytest.mark.parametrize("parts", REQUESTS.values(), ids=REQUESTS)
async def test_a_request_without_tls_is_told_so_at_once(serve_express: Serve, tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    site = await serve_tls(serve_express, tmp_path)

    answer = await read_end(await connect(site, *parts))

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\nthis port speaks TLS: use https:// or wss://\n")
    assert site.gateway.status().refusals == {"not_tls": 1}


async def test_rubbish_fails_as_a_tls_handshake(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_tls(serve_express, tmp_path)

    answer = await read_end(await connect(site, b"\x00\xff" * 20))

    assert b"HTTP" not in answer
    await site.until(lambda: not site.service.connections.tls_handshakes)
