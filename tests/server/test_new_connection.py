"""New connections: reading the request head, choosing the lane, and every refusal."""

import asyncio
import json
import ssl
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from scalesocket.config.model import Server
from scalesocket.edge.client import Client
from scalesocket.rooms.room import Room
from scalesocket.wire.frame_reader import FRAMES_PER_FEED
from scalesocket.wire.frames import Event
from tests.conftest import Serve
from tests.playing import Player, Playground, program
from tests.raw import CLOSE, FIN, TEXT, RawClient, close_payload, mask_frame, upgrade

CAT: dict[str, Any] = {"command": ["cat"]}
WHO: dict[str, Any] = {"command": ["sh", "-c", 'echo "$REMOTE_ADDR|$HTTPS|$SERVER_PROTOCOL"; exec cat']}
PROXIES: dict[str, Any] = {"trusted_proxies": ["127.0.0.0/8"]}


async def open_connection(site: Playground) -> RawClient:
    client = await RawClient.connect(site.port)
    site.raw_clients.append(client)
    return client


async def answer_to(site: Playground, *chunks: bytes) -> str:
    """Send these bytes on a connection of their own; return everything received until the server closes it."""
    client = await open_connection(site)
    for chunk in chunks:
        client.send(chunk)
        await client.writer.drain()
        await asyncio.sleep(0.01)
    return (await client.read_end()).decode("latin-1")


def status_of(answer: str) -> int:
    return int(answer.split(" ")[1])


# --- Reading the head


async def test_a_head_may_arrive_byte_by_byte(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    ann = await open_connection(site)

    for byte in upgrade("/game/one"):
        ann.send(bytes((byte,)))
        await ann.writer.drain()
        await asyncio.sleep(0)

    assert (await ann.read_head()).startswith("HTTP/1.1 101 ")
    ann.say("in")
    await ann.hear("in")


async def test_a_head_may_be_split_anywhere(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    head = upgrade("/game/one")

    async def join(at: int) -> None:
        ann = await open_connection(site)
        ann.send(head[:at])
        await ann.writer.drain()
        await asyncio.sleep(0.02)
        ann.send(head[at:])
        assert (await ann.read_head()).startswith("HTTP/1.1 101 "), at

    await asyncio.gather(*map(join, range(1, len(head))))


async def test_frames_in_the_same_packet_as_the_head_are_not_lost(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    ann = await open_connection(site)

    ann.send(upgrade("/game/one") + mask_frame(b"early") + mask_frame(b"bird")[:4])
    await ann.read_head()

    await ann.hear("early")


async def test_the_response_follows_the_rfc(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    ann = await open_connection(site)

    ann.send(upgrade("/game/one", "Sec-WebSocket-Protocol: chat"))
    head = await ann.read_head()

    assert head == (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


async def test_plain_requests_take_the_general_lane_with_the_bytes_already_read(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)

    answer = await answer_to(site, b"GET /heal", b"th HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert status_of(answer) == 200
    assert json.loads(answer.partition("\r\n\r\n")[2]) == {"status": "ok"}


async def test_pipelined_requests_are_all_answered(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n"

    answer = await answer_to(site, request + b"\r\n" + request + b"Connection: close\r\n\r\n")

    assert answer.count('{"status":"ok"}') == 2


async def test_a_request_that_only_mentions_websockets_is_a_plain_one(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)

    answer = await answer_to(site, b"GET /health HTTP/1.1\r\nHost: x\r\nX-About: websocket\r\nConnection: close\r\n\r\n")

    assert status_of(answer) == 200


# --- Refusals


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(upgrade("/game/a b"), 400, id="request line"),
        pytest.param(upgrade("/game/one", "broken"), 400, id="no colon"),
        pytest.param(upgrade("/game/one").replace(b"GET", b"POST"), 400, id="POST"),
        pytest.param(upgrade("/game/one").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, id="HTTP/1.0"),
        pytest.param(upgrade("/game/one").replace(b"Connection: Upgrade\r\n", b""), 400, id="no Connection"),
        pytest.param(upgrade("/game/one").replace(b"Sec-WebSocket-Key", b"X-Key"), 400, id="no key"),
        pytest.param(upgrade("/game/one").replace(b"Version: 13", b"Version: 12"), 426, id="version"),
    ],
)
async def test_a_bad_upgrade_is_answered_and_counted(serve_express: Serve, head: bytes, status: int) -> None:
    site = await serve_express(game=CAT)

    answer = await answer_to(site, head)

    assert status_of(answer) == status
    assert ("Sec-WebSocket-Version: 13" in answer) == ("Upgrade: websocket" in answer) == (status == 426)
    assert site.gateway.status().refusals == {"bad_handshake": 1}


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_head_that_is_too_long_is_431(serve_express: Serve, in_pieces: bool) -> None:
    site = await serve_express(game=CAT)
    head = upgrade("/game/one", *(f"X-{number}: {'x' * 1000}" for number in range(40)))

    answer = await answer_to(site, *([head[:20_000], head[20_000:]] if in_pieces else [head]))

    assert status_of(answer) == 431
    assert site.gateway.status().refusals == {"head_too_big": 1}


async def test_a_head_of_32_KiB_is_accepted(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    head = upgrade("/game/one", "X-Long: ")
    ann = await open_connection(site)

    ann.send(head.replace(b"X-Long: ", b"X-Long: " + b"x" * (32 * 1024 - len(head))))

    assert (await ann.read_head()).startswith("HTTP/1.1 101 ")


async def test_an_incomplete_head_is_408(serve_express: Serve) -> None:
    site = await serve_express(Server(handshake_timeout=0.2), game=CAT)

    answer = await answer_to(site, upgrade("/game/one")[:-2])

    assert status_of(answer) == 408
    assert site.gateway.status().refusals == {"head_timeout": 1}


async def test_a_connection_without_input_is_closed_without_a_response(serve_express: Serve) -> None:
    site = await serve_express(Server(handshake_timeout=0.2), game=CAT)

    assert await answer_to(site) == ""


async def test_sending_byte_by_byte_does_not_extend_the_deadline(serve_express: Serve) -> None:
    site = await serve_express(Server(handshake_timeout=0.3), game=CAT)
    ann = await open_connection(site)
    began = time.monotonic()

    async def drip() -> None:
        for byte in upgrade("/game/one"):
            ann.send(bytes((byte,)))
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    head = await ann.read_head()
    dripping.cancel()

    assert head.startswith("HTTP/1.1 408 ")
    assert time.monotonic() - began < 5.0  # all of it would take longer


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/nothing/one", (), 404),
        ("/game/one/two", (), 404),
        ("/game/a!", (), 400),
        ("/game/one", ("Origin: http://evil.example",), 403),
        ("/listed/green", (), 404),
    ],
)
async def test_a_refusal_has_a_short_text_and_closes_the_connection(
    serve_express: Serve, path: str, fields: tuple[str, ...], status: int
) -> None:
    site = await serve_express(game=CAT, listed={**CAT, "rooms": ("red",)})

    answer = await answer_to(site, upgrade(path, *fields))

    head, _, body = answer.partition("\r\n\r\n")
    assert status_of(answer) == status
    assert "Connection: close" in head
    assert f"Content-Length: {len(body.encode())}" in head
    assert body.strip()


async def test_a_refusal_is_received_although_the_client_keeps_sending(serve_express: Serve) -> None:
    site = await serve_express(game=CAT)
    ann = await open_connection(site)

    ann.send(upgrade("/nothing/one") + b"x" * 500_000)

    assert (await ann.read_head()).startswith("HTTP/1.1 404 ")


async def test_a_client_of_a_full_room_gets_a_websocket_that_is_closed(serve_express: Serve) -> None:
    site = await serve_express(game={**CAT, "max_clients": 1})
    await site.join("/game/one")

    eve = await site.join_raw("/game/one")

    assert await eve.read_close() == (1013, "the room is full")
    assert await eve.read_end() == b""


@pytest.mark.one_process("each worker has as many")
async def test_connections_beyond_one_and_a_half_times_max_connections_are_cut(serve_express: Serve) -> None:
    site = await serve_express(Server(max_connections=4), game=CAT)
    players = [await site.join("/game/one") for _ in range(4)]
    waiting = [await open_connection(site) for _ in range(2)]
    await site.until(lambda: len(site.service.connections.transports) == 6)

    late = await open_connection(site)
    late.send(upgrade("/game/one"))

    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await late.read_head()
    assert site.gateway.status().refusals["too_many_connections"] == 1
    for client in waiting:
        await client.close()
    await site.until(lambda: len(site.service.connections.transports) == 4)
    await players[0].say("still here")
    await players[1].hear("still here")


# --- Proxies


async def test_a_proxy_header_has_the_clients_address(serve_express: Serve) -> None:
    site = await serve_express(Server.model_validate(PROXIES), game=WHO)
    ann = await open_connection(site)

    ann.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n" + upgrade("/game/one"))

    await ann.read_head()
    await ann.hear("192.0.2.1:4711||HTTP/1.1")


async def test_a_proxy_header_may_be_split_anywhere(serve_express: Serve) -> None:
    site = await serve_express(Server.model_validate(PROXIES), game=CAT)
    addresses = bytes((192, 0, 2, 1, 192, 0, 2, 9)) + struct.pack("!HH", 4711, 80)
    binary = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(addresses)) + addresses
    text = b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n"

    async def join(header: bytes, at: int) -> None:
        ann = await open_connection(site)
        stream = header + upgrade("/game/one")
        ann.send(stream[:at])
        await ann.writer.drain()
        await asyncio.sleep(0.02)
        ann.send(stream[at:])
        assert (await ann.read_head()).startswith("HTTP/1.1 101 "), (header, at)

    await asyncio.gather(*(join(header, at) for header in (binary, text) for at in range(1, len(header) + 2)))
    clients = site.room("game", "one").clients.values()
    assert {client.remote for client in clients} == {"192.0.2.1:4711"}


async def test_a_proxy_header_applies_to_the_general_lane(serve_express: Serve) -> None:
    site = await serve_express(Server.model_validate({**PROXIES, "max_connections_per_ip": 1}), game=CAT)
    plain = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(2):
        ann = await open_connection(site)
        ann.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n" + plain)
        await ann.read_head()
        await ann.reader.readexactly(len('{"status":"ok"}'))

        ann.send(upgrade("/game/one"))
        status = (await ann.read_head()).split(" ")[1]

    assert status == "429"
    assert [client.remote for client in site.room("game", "one").clients.values()] == ["192.0.2.1:4711"]


@pytest.mark.parametrize(
    "rubbish",
    [b"hello\r\n\r\n", b"GET /health\r\n\r\n", b"\x00\xff\r\n\r\n", b"\r\n\r\n\x00\r\nQUIT\n", b"SSH-2.0-x\r\n\r\n"],
    ids=["a word", "HTTP/0.9", "bytes", "PROXY v2 from nobody trusted", "SSH"],
)
async def test_input_that_is_not_http_is_400(serve_express: Serve, rubbish: bytes) -> None:
    site = await serve_express(game=CAT)

    answer = await answer_to(site, rubbish)

    assert answer.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith("\r\n\r\nthis is not an HTTP request: use an HTTP or websocket client\n")
    assert site.gateway.refusals["not_http"] == 1


async def test_a_tls_handshake_on_a_plain_port_is_400_at_once(serve_express: Serve) -> None:
    site = await serve_express(Server(bind=("127.0.0.1:0",), handshake_timeout=3600), game=CAT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()

    answer = await answer_to(site, outgoing.read())

    assert answer.endswith("this port serves HTTP without TLS: use http:// or ws://\n")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\nHost: localhost\n\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
        b"\r\nGET /health HTTP/1.1\nHost: localhost\r\n\r\n",
        upgrade("/game/one").replace(b"\r\n", b"\n"),
        upgrade("/game/one").replace(b"\r\nHost", b"\nHost"),
        upgrade("/game/one", "X: y\nZ: websocket"),
    ],
)
@pytest.mark.parametrize("at", [None, 1, -1])
async def test_a_line_that_ends_with_lf_alone_is_400_at_once(serve_express: Serve, head: bytes, at: int | None) -> None:
    site = await serve_express(Server(handshake_timeout=3600), game=CAT)

    answer = await answer_to(site, *([head] if at is None else [head[:at], head[at:]]))

    assert answer.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith("\r\n\r\na line of the request head ends with LF alone (it must be CRLF)\n")
    assert site.gateway.status().refusals == {"bad_handshake": 1}


async def test_a_word_and_a_line_feed_are_not_http(serve_express: Serve) -> None:
    site = await serve_express(Server(handshake_timeout=3600), game=CAT)

    assert (await answer_to(site, b"hello\n")).endswith("this is not an HTTP request: use an HTTP or websocket client\n")


async def test_a_malformed_proxy_header_is_400(serve_express: Serve) -> None:
    site = await serve_express(Server.model_validate(PROXIES), game=CAT)

    answer = await answer_to(site, b"PROXY TCP4 rubbish\r\n" + upgrade("/game/one"))

    assert status_of(answer) == 400
    assert site.gateway.status().refusals == {"proxy_header": 1}


async def test_a_proxy_header_of_an_untrusted_peer_is_refused(serve_express: Serve) -> None:
    site = await serve_express(Server.model_validate({"trusted_proxies": ["192.0.2.0/24"]}), game=CAT)

    answer = await answer_to(site, b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n" + upgrade("/game/one"))

    assert status_of(answer) == 400


async def test_address_and_scheme_are_taken_from_a_trusted_proxy(serve_express: Serve) -> None:
    site = await serve_express(Server.model_validate(PROXIES), game=WHO)
    fields = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
    ann = await open_connection(site)

    ann.send(upgrade("/game/one", *fields))

    await ann.read_head()
    await ann.hear("192.0.2.1:0|on|HTTP/1.1")


async def test_forwarding_headers_of_an_untrusted_peer_are_ignored(serve_express: Serve) -> None:
    site = await serve_express(game=WHO)
    ann = await open_connection(site)

    ann.send(upgrade("/game/one", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https"))

    await ann.read_head()
    port = ann.writer.get_extra_info("sockname")[1]
    await ann.hear(f"127.0.0.1:{port}||HTTP/1.1")


# --- Other listeners


async def test_a_unix_socket_serves_both_lanes(serve_express: Serve, tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    site = await serve_express(Server.model_validate({"bind": f"unix:{path}"}), game=WHO)

    ann, bob = await RawClient.connect(path), await RawClient.connect(path)
    site.raw_clients += [ann, bob]
    ann.send(upgrade("/game/one"))
    bob.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert (await ann.read_head()).startswith("HTTP/1.1 101 ")
    await ann.hear("||HTTP/1.1")
    assert b'{"status":"ok"}' in await bob.read_end()


@pytest.mark.parametrize("trusted", [["unix:"], ["0.0.0.0/0", "::/0"]])
async def test_peers_of_a_unix_socket_are_proxies_only_if_trusted_proxies_says_so(
    serve_express: Serve, tmp_path: Path, trusted: list[str]
) -> None:
    path = tmp_path / "site.sock"
    server = Server.model_validate({"bind": f"unix:{path}", "trusted_proxies": trusted})
    site = await serve_express(server, game=WHO, console={**CAT, "auth": {"header": "Remote-User"}})
    ann, bob, eve = [await RawClient.connect(path) for _ in range(3)]
    site.raw_clients += [ann, bob, eve]

    ann.send(upgrade("/game/one", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https"))
    bob.send(b"PROXY TCP4 192.0.2.2 192.0.2.9 4711 80\r\n" + upgrade("/game/two"))
    eve.send(upgrade("/console/one", "Remote-User: root"))

    assert status_of(await ann.read_head()) == 101
    heads = status_of(await bob.read_head()), status_of(await eve.read_head())
    if trusted == ["unix:"]:
        assert heads == (101, 101)
        await ann.hear("192.0.2.1:0|on|HTTP/1.1")
        await bob.hear("192.0.2.2:4711||HTTP/1.1")
    else:
        assert heads == (400, 401)
        await ann.hear("||HTTP/1.1")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(words, check=True, capture_output=True)
    return paths


def tls_server(certificate: tuple[Path, Path]) -> Server:
    return Server.model_validate({"tls": {"certificate": certificate[0], "key": certificate[1]}})


def tls_client(certificate: tuple[Path, Path], *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate[0])
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


async def test_websockets_go_over_tls(serve_express: Serve, certificate: tuple[Path, Path]) -> None:
    site = await serve_express(tls_server(certificate), game=WHO)

    async with connect(f"wss://127.0.0.1:{site.port}/game/one", ssl=tls_client(certificate), proxy=None) as connection:
        ann = Player(connection)
        assert str(await ann.listen()).endswith("|on|HTTP/1.1")
        await ann.say("x" * 500_000)
        await ann.hear("x" * 500_000)


async def test_a_tls_handshake_has_a_deadline(serve_express: Serve, certificate: tuple[Path, Path]) -> None:
    settings = {**tls_server(certificate).model_dump(exclude_unset=True), "handshake_timeout": 0.2}
    site = await serve_express(Server(**settings), game=CAT)
    ann = await open_connection(site)

    assert await ann.read_end() == b""


async def test_a_close_over_tls_has_a_code(serve_express: Serve, certificate: tuple[Path, Path]) -> None:
    site = await serve_express(tls_server(certificate), game={**CAT, "max_clients": 1, "max_message": 10})
    address = f"wss://127.0.0.1:{site.port}/game/one"

    async with connect(address, ssl=tls_client(certificate), proxy=None) as connection:
        async with connect(address, ssl=tls_client(certificate), proxy=None) as other:
            assert await Player(other).wait_closed() == (1013, "the room is full")
        ann = Player(connection)
        await ann.say("x" * 11)
        assert (await ann.wait_closed())[0] == 1009


async def test_a_client_over_tls_that_does_not_read_is_too_slow(serve_express: Serve, certificate: tuple[Path, Path]) -> None:
    flood = {"command": program("alarm", 8_000, 500), "send_buffer": 64 * 1024, "stop_timeout": 0.1}
    site = await serve_express(tls_server(certificate), game=flood)
    sock = await site.connect(receive_buffer=4096)
    slow = RawClient(*await asyncio.open_connection(sock=sock, ssl=tls_client(certificate), server_hostname="localhost"))
    site.raw_clients.append(slow)

    slow.send(upgrade("/game/one") + mask_frame(b"go"))

    await site.until(lambda: site.gateway.pools["game"].status().counts.slow_clients == 1)


async def test_a_client_over_tls_that_reads_late_gets_everything(serve_express: Serve, certificate: tuple[Path, Path]) -> None:
    flood = {"command": program("alarm", 4_000, 500), "slow_client": "block", "send_buffer": 64 * 1024, "stall_timeout": 30.0}
    site = await serve_express(tls_server(certificate), game=flood)
    sock = await site.connect(receive_buffer=4096)
    slow = RawClient(*await asyncio.open_connection(sock=sock, ssl=tls_client(certificate), server_hostname="localhost"))
    site.raw_clients.append(slow)
    slow.send(upgrade("/game/one") + mask_frame(b"go"))
    await slow.read_head()
    await asyncio.sleep(0.3)

    await slow.hear(*(f"{number:0500}" for number in range(4_000)))


@pytest.mark.parametrize(("offered", "chosen"), [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), ((), None)])
async def test_alpn_chooses_http2_if_the_client_offers_it(
    serve_express: Serve, certificate: tuple[Path, Path], offered: tuple[str, ...], chosen: str | None
) -> None:
    site = await serve_express(tls_server(certificate), game=CAT)

    ann = await RawClient.connect(site.port, tls=tls_client(certificate, *offered))
    site.raw_clients.append(ann)

    assert ann.writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen


async def test_plain_requests_and_later_upgrades_work_over_tls(serve_express: Serve, certificate: tuple[Path, Path]) -> None:
    site = await serve_express(tls_server(certificate), game=WHO)
    ann = await RawClient.connect(site.port, tls=tls_client(certificate))
    site.raw_clients.append(ann)

    ann.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await ann.read_head()).startswith("HTTP/1.1 200 ")
    await ann.reader.readexactly(len('{"status":"ok"}'))
    ann.send(upgrade("/game/one"))

    assert (await ann.read_head()).startswith("HTTP/1.1 101 ")
    while (frame := await ann.read_frame()).first != FIN | TEXT:
        pass
    assert frame.payload.endswith(b"|on|HTTP/1.1")


async def test_all_messages_over_tls_are_delivered_before_a_close(serve_express: Serve, certificate: tuple[Path, Path]) -> None:
    site = await serve_express(tls_server(certificate), echo=CAT)
    bob = await RawClient.connect(site.port, tls=tls_client(certificate))
    bob.send(upgrade("/echo/one"))
    await bob.read_head()
    ann = await RawClient.connect(site.port, tls=tls_client(certificate))
    ann.send(upgrade("/echo/one"))
    await ann.read_head()

    ann.send(b"".join(mask_frame(b"%d" % number) for number in range(5_000)) + mask_frame(close_payload(1000), CLOSE))
    ann.writer.close()

    for number in range(5_000):
        assert (await bob.read_frame()).payload == b"%d" % number
    bob.writer.close()


async def test_messages_of_a_lost_connection_are_delivered_over_several_iterations(
    serve_express: Serve, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve_express(tls_server(certificate), echo=CAT)
    turn, heard_in = 0, Counter[int]()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    def from_client(room: Room, client: Client, messages: Sequence[Event]) -> None:
        heard_in[turn] += len(messages)

    monkeypatch.setattr(Room, "from_client", from_client)
    counting = asyncio.create_task(count_turns())
    ann = await RawClient.connect(site.port, tls=tls_client(certificate))
    ann.send(upgrade("/echo/one"))
    await ann.read_head()

    ann.send(mask_frame(b"") * 30_000)
    ann.writer.close()

    await site.until(lambda: heard_in.total() == 30_000)
    await site.until(lambda: site.gateway.connections == 0)
    assert max(heard_in.values()) <= 2 * FRAMES_PER_FEED
    counting.cancel()
