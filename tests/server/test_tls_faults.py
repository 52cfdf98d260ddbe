"""Peers that misuse the TLS handshake: slowly, wrongly, or again and again."""

import asyncio
import shutil
import ssl
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any, Final

import pytest

from scalesocket.config.model import Tls
from scalesocket.server.tls import load_tls
from tests.conftest import Serve
from tests.playing import DEADLINE, Playground
from tests.raw import RawClient, upgrade
from tests.server.test_expiry import make_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")

TIMEOUT: Final = 0.5
BROKEN_PEERS: Final = 300


async def serve_tls(serve: Serve, folder: Path) -> Playground:
    server = make_certificate(folder, days=2).model_copy(update={"handshake_timeout": TIMEOUT})
    return await serve(server, game={"command": ["cat"]})


async def join_over_tls(site: Playground, folder: Path) -> RawClient:
    context = ssl.create_default_context(cafile=folder / "site.pem")
    context.check_hostname = False
    client = await RawClient.connect(site.port, tls=context)
    site.raw_clients.append(client)
    client.send(upgrade("/game/one"))
    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    return client


def client_hello() -> bytes:
    """The first message of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_a_handshake_that_trickles_ends_with_handshake_timeout(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_tls(serve_express, tmp_path)
    loop = asyncio.get_running_loop()
    slow = await RawClient.connect(site.port)
    site.raw_clients.append(slow)
    begun = loop.time()

    async def trickle() -> None:
        for byte in client_hello():
            slow.send(bytes((byte,)))
            await asyncio.sleep(TIMEOUT / 10)

    trickling = asyncio.create_task(trickle())
    try:
        async with asyncio.timeout(DEADLINE):
            while await slow.reader.read(100):
                pass
    except ConnectionResetError:
        pass
    trickling.cancel()

    assert loop.time() - begun < DEADLINE
    await site.until(lambda: not site.service.connections.tls_handshakes)


async def test_a_handshake_that_starts_in_the_iteration_of_its_deadline_is_ended(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_tls(serve_express, tmp_path)
    slow = await RawClient.connect(site.port)
    site.raw_clients.append(slow)
    handshakes = site.service.connections.tls_handshakes
    await site.until(lambda: bool(handshakes))
    (handshake,) = handshakes

    handshake._shake_hands()
    handshake.time_out()

    async with asyncio.timeout(DEADLINE):
        assert await slow.reader.read() == b""
    assert not handshakes


async def test_broken_handshakes_cost_only_their_senders(serve_express: Serve, tmp_path: Path) -> None:
    """Three hundred peers at once send part of a handshake, rubbish in it, an oversized record, or plain HTTP, and leave."""
    site = await serve_tls(serve_express, tmp_path)
    ann = await join_over_tls(site, tmp_path)
    hello = client_hello()
    inputs = (
        hello[: len(hello) // 2],
        hello[:20] + bytes(len(hello) - 20),
        b"\x16\x03\x01\xff\xff" + bytes(70_000),
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        hello + b"\x14\x03\x03\x00\x01\x01" * 100,
        b"",
    )

    async def misuse(number: int) -> None:
        client = await RawClient.connect(site.port)
        client.send(inputs[number % len(inputs)])
        if number % 2:
            client.cut()
            return
        client.writer.write_eof()
        try:
            async with asyncio.timeout(DEADLINE):
                while await client.reader.read(4096):
                    pass
        except ConnectionResetError:
            pass
        await client.close()

    connections = site.service.connections
    before = len(connections.transports)
    async with asyncio.TaskGroup() as peers:
        for number in range(BROKEN_PEERS):
            peers.create_task(misuse(number))
        for number in range(50):
            ann.say(f"{number}")
            await ann.hear(f"{number}")

    await site.until(lambda: not connections.tls_handshakes and len(connections.transports) == before)
    assert [entry for entry in serve_express.events if entry["log_level"] in ("error", "critical")] == []
    ann.say("still here")
    await ann.hear("still here")


async def test_a_client_cannot_renegotiate(serve_express: Serve, tmp_path: Path) -> None:
    site = await serve_tls(serve_express, tmp_path)
    ann = await join_over_tls(site, tmp_path)
    words = ("openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{site.port}")
    client = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    assert client.stdin is not None
    assert client.stdout is not None
    async with asyncio.timeout(DEADLINE):
        shown = await client.stdout.readuntil(b"---\nSSL handshake has read")
        client.stdin.write(b"R\n")  # s_client starts another handshake
        shown += await client.stdout.read()
        await client.wait()

    assert b"RENEGOTIATING" in shown
    assert b"no renegotiation" in shown
    ann.say("still here")
    await ann.hear("still here")


def test_renegotiation_is_off_whatever_the_library_allows(tmp_path: Path) -> None:
    tls: Any = make_certificate(tmp_path, days=2).tls

    assert load_tls(Tls(certificate=tls.certificate, key=tls.key)).options & ssl.OP_NO_RENEGOTIATION
