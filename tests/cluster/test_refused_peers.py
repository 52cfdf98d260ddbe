"""Peers that a node refuses: without the secret, of another version, slow, silent, or many."""

import asyncio
import errno
import socket
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from scalesocket.cluster import arrivals, peer_client, peers
from scalesocket.cluster.handed import Handed, encode_handed
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.preamble import GREETING_SIZE, Answer, Kind, encode_preamble, parse_greeting
from scalesocket.io.poller import Poller
from tests.backends.recording import until
from tests.cluster.nodes import HANDED, SECRET, BareNode, Contexts, hand_over, make_tls, needs_openssl
from tests.conftest import capture_all_logs

pytestmark = pytest.mark.anyio


class RawPeer:
    """A connection to a listener, on which a test sends any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, nonce: bytes) -> None:
        self.reader = reader
        self.writer = writer
        self.nonce = nonce

    @classmethod
    async def connect(cls, node: BareNode) -> "RawPeer":
        host, port = node.address.split(":")
        reader, writer = await asyncio.open_connection(host, port)
        return cls(reader, writer, parse_greeting(await reader.readexactly(GREETING_SIZE)))

    async def read(self) -> bytes:
        """Read up to the end, which the listener must make."""
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                return await self.reader.read()
        return b""

    async def ask(self, *parts: bytes) -> bytes:
        """Send something, and return everything that the listener answers."""
        for part in parts:
            self.writer.write(part)
        answer = await self.read()
        await self.close()
        return answer

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


# --- Answers


@pytest.mark.parametrize("answer", [Answer.NOT_HERE, Answer.DRAINING, Answer.BUSY])
async def test_a_node_can_refuse(node: BareNode, client: PeerClient, answer: Answer) -> None:
    node.decision = answer

    assert await client.hand_over(node.address, HANDED, patience=30) is answer

    assert node.streams == []
    assert client.results == {answer.name.lower(): 1}


async def test_another_secret_is_refused_counted_and_logged_by_both_nodes_once_a_minute(node: BareNode, poller: Poller) -> None:
    with capture_all_logs() as events, closing(PeerClient(b"another secret", poller=poller)) as stranger:
        for _ in range(3):
            assert await stranger.hand_over(node.address, HANDED, patience=30) is Answer.WRONG_SIGNATURE

    assert node.listener.results["wrong_signature"] == 3
    assert [event["peer"] for event in events if event["event"] == "wrong signature of a node"] == ["127.0.0.1"]
    (refused,) = (event for event in events if event["event"] == "node not reached")
    assert (refused["address"], refused["error"]) == (
        node.address,
        "the node answers wrong signature (does it have another secret?)",
    )
    assert node.streams == []


async def test_a_replayed_preamble_is_refused(node: BareNode) -> None:
    first = await RawPeer.connect(node)
    recorded = encode_preamble(SECRET, first.nonce, Kind.HAND_OVER, encode_handed(HANDED))
    first.writer.write(recorded)
    assert await first.reader.readexactly(1) == bytes((Answer.TAKEN,))
    second = await RawPeer.connect(node)

    assert await second.ask(recorded) == bytes((Answer.WRONG_SIGNATURE,))

    assert len(node.streams) == 1
    await first.close()


async def test_a_node_with_an_older_version_is_refused_as_too_old(node: BareNode, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = await RawPeer.connect(node)
    with monkeypatch.context() as patch:
        patch.setattr("scalesocket.cluster.preamble.VERSION", 0)
        old = encode_preamble(SECRET, peer.nonce, Kind.HAND_OVER, encode_handed(HANDED))

    assert await peer.ask(old) == bytes((Answer.TOO_OLD,))


async def test_a_node_with_a_newer_version_is_refused_and_the_log_says_why(
    node: BareNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await RawPeer.connect(node)
    with monkeypatch.context() as patch:
        patch.setattr("scalesocket.cluster.preamble.VERSION", 2)
        new = encode_preamble(SECRET, peer.nonce, Kind.HAND_OVER, encode_handed(HANDED))

    with capture_all_logs() as events:
        assert await peer.ask(new) == bytes((Answer.INVALID,))

    assert [(event["event"], event["hint"]) for event in events] == [("wrong message of a node", "does it run another version?")]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 100_000, Answer.WRONG_SIGNATURE),
        (bytes(10_000_000), Answer.WRONG_SIGNATURE),
    ],
    ids=["http", "zeros"],
)
async def test_an_invalid_preamble_is_answered_after_its_first_bytes(node: BareNode, sent: bytes, answer: Answer) -> None:
    peer = await RawPeer.connect(node)

    assert await peer.ask(sent) == bytes((answer,))


async def test_a_signed_payload_that_is_too_long_or_invalid_is_refused(node: BareNode, client: PeerClient) -> None:
    long = await RawPeer.connect(node)
    assert await long.ask(encode_preamble(SECRET, long.nonce, Kind.HAND_OVER, bytes(300_000))) == bytes((Answer.TOO_LONG,))
    wrong = await RawPeer.connect(node)
    assert await wrong.ask(encode_preamble(SECRET, wrong.nonce, Kind.HAND_OVER, b"x")) == bytes((Answer.INVALID,))
    more = await RawPeer.connect(node)
    preamble = encode_preamble(SECRET, more.nonce, Kind.HAND_OVER, encode_handed(HANDED))
    assert await more.ask(preamble + b"more") == bytes((Answer.INVALID,))
    other = await RawPeer.connect(node)
    preamble = encode_preamble(SECRET, other.nonce, Kind.HAND_OVER, encode_handed(HANDED))
    assert await other.ask(preamble[:-1] + b"\xff") == bytes((Answer.INVALID,))

    facts = msgspec.structs.replace(HANDED.facts, rest=bytes(300_000))
    assert await client.hand_over(node.address, Handed(facts, 5), patience=30) is Answer.TOO_LONG
    assert node.streams == []


async def test_a_preamble_may_arrive_byte_by_byte(node: BareNode) -> None:
    peer = await RawPeer.connect(node)
    preamble = encode_preamble(SECRET, peer.nonce, Kind.HAND_OVER, encode_handed(HANDED))

    for number in range(len(preamble)):
        peer.writer.write(preamble[number : number + 1])
        await asyncio.sleep(0)

    assert await peer.reader.readexactly(1) == bytes((Answer.TAKEN,))
    await peer.close()


# --- Peers that are slow, or many


async def test_a_preamble_has_a_deadline_that_no_byte_extends(node: BareNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PREAMBLE_TIMEOUT", 0.3)
    peer = await RawPeer.connect(node)
    started = asyncio.get_running_loop().time()

    while not peer.reader.at_eof() and peer.reader.exception() is None:
        peer.writer.write(b"x")
        await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - started < 4.0
        if node.listener.results["late"]:
            break

    assert node.listener.results == {"late": 1}
    assert not node.listener.waiting
    await peer.close()


async def test_a_silent_peer_is_ended(node: BareNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "IDLE_TIMEOUT", 0.1)
    peer = await RawPeer.connect(node)

    assert await peer.read() == b""

    assert node.listener.results == {"late": 1}
    await peer.close()


async def test_many_silent_peers_keep_no_node_out(node: BareNode, client: PeerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_WAITING", 5)
    silent = [await RawPeer.connect(node) for _ in range(12)]

    (await hand_over(client, node)).socket.close()

    assert len(node.listener.waiting) <= 5
    assert node.listener.results["cut"] >= 7
    for peer in silent:
        await peer.close()


async def test_refused_peers_that_do_not_end_their_connection_are_cut(node: BareNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LINGER_TIMEOUT", 0.1)
    peer = await RawPeer.connect(node)
    peer.writer.write(bytes(100))

    assert await peer.read() == bytes((Answer.WRONG_SIGNATURE,))

    await until(lambda: not node.listener.waiting)
    await peer.close()


# --- TLS


@needs_openssl
async def test_a_node_without_a_certificate_of_the_cluster_is_refused(
    poller: Poller, contexts: Contexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_client, "CONNECT_TIMEOUT", 0.5)
    other = make_tls(tmp_path)
    with closing(BareNode(poller, contexts)) as node, closing(BareNode(poller, other)) as impostor:
        for client_tls in (None, other[1]):
            with closing(PeerClient(SECRET, poller=poller, tls=client_tls)) as client:
                assert await client.hand_over(node.address, HANDED, patience=30) is Answer.UNREACHABLE
        with closing(PeerClient(SECRET, poller=poller, tls=contexts[1])) as client:
            assert await client.hand_over(impostor.address, HANDED, patience=30) is Answer.UNREACHABLE

        assert node.streams == []
        assert node.listener.results["taken"] == 0


@needs_openssl
async def test_silent_peers_of_a_listener_with_tls_are_ended(
    poller: Poller, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PREAMBLE_TIMEOUT", 2.0)
    monkeypatch.setattr(peers, "MAX_WAITING", 3)
    with closing(BareNode(poller, contexts)) as node:
        host, port = node.address.split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(10)]
        await until(lambda: len(node.listener._handshakes) == 3)

        with closing(PeerClient(SECRET, poller=poller, tls=contexts.caller, max_ready=0)) as client:
            (await hand_over(client, node)).socket.close()

        await until(lambda: not node.listener._handshakes)
        for sock in silent:
            sock.close()


@needs_openssl
async def test_a_node_without_a_free_descriptor_ends_the_connection_with_tls(
    poller: Poller, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with (
        closing(BareNode(poller, contexts)) as node,
        closing(PeerClient(SECRET, poller=poller, tls=contexts[1], max_ready=0)) as client,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(arrivals, "socket", SimpleNamespace(socketpair=fail))
            assert await client.hand_over(node.address, HANDED, patience=30) is Answer.UNREACHABLE

        assert not node.streams
        ours = await hand_over(client, node)
        ours.socket.close()
