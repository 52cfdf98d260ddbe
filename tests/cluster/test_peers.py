"""Connections between nodes: who is let in, and what others cost."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import msgspec
import pytest

from scalesocket.cluster import arrivals, peer_client, peers, ready
from scalesocket.cluster.channels import Channel
from scalesocket.cluster.handed import Handed, encode_handed
from scalesocket.cluster.keep_alive import TCP_USER_TIMEOUT
from scalesocket.cluster.peer_client import PeerClient, RefusedError
from scalesocket.cluster.preamble import GREETING_SIZE, Answer, Kind, encode_greeting, encode_preamble, parse_greeting
from scalesocket.cluster.ready import PeerError
from scalesocket.io.poller import Poller
from scalesocket.placement.facts import Kind as FactsKind
from scalesocket.placement.stream import Stream as OwnerStream
from tests.backends.recording import until
from tests.cluster.nodes import SECRET, BareNode, Contexts, Stream, address_of, both_ways, make_tls, needs_openssl
from tests.conftest import capture_all_logs
from tests.placement.test_facts import make_facts

pytestmark = pytest.mark.anyio
HANDED = Handed(msgspec.structs.replace(make_facts(), kind=FactsKind.PAIR), 5)


async def hand_over(client: PeerClient, node: BareNode) -> Stream:
    stream = await client.hand_over(node.address, HANDED, patience=30)
    assert isinstance(stream, OwnerStream), stream
    assert not stream.early
    return Stream(stream.to_socket().detach())


@asynccontextmanager
async def answering(text: bytes) -> AsyncIterator[str]:
    """Run a server that sends a text to everybody, until all of its connections have ended."""
    open_connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        writer.write(text)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        open_connections -= 1

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield address_of(server.sockets[0])
    await until(lambda: not open_connections)
    server.close()


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


# --- Streams


@both_ways
async def test_a_stream_carries_bytes_and_both_ends_of_them(poller: Poller, contexts: Contexts, *, is_secured: bool) -> None:
    tls = contexts if is_secured else None
    with closing(BareNode(poller, tls)) as node, closing(PeerClient(SECRET, poller=poller, tls=tls and tls[1])) as client:
        ours = await hand_over(client, node)
        (theirs,) = node.streams

        await ours.write(b"hello")
        assert await theirs.read(5) == b"hello"
        await theirs.write(b"you, too")
        assert await ours.read(8) == b"you, too"
        ours.socket.shutdown(socket.SHUT_WR)
        assert await theirs.read(1) == b""
        await theirs.write(b"the last word")
        theirs.socket.close()

        assert await ours.read(100) == b"the last word"
        ours.socket.close()
        assert node.handed == [msgspec.structs.replace(HANDED, facts=msgspec.structs.replace(HANDED.facts, generation=0))]
        assert node.listener.results == {"taken": 1}
        assert client.results == {"taken": 1}
        await until(lambda: not node.listener._streams and not client._streams)


@both_ways
async def test_many_bytes_pass_in_order_and_push_back(poller: Poller, contexts: Contexts, *, is_secured: bool) -> None:
    tls = contexts if is_secured else None
    with closing(BareNode(poller, tls)) as node, closing(PeerClient(SECRET, poller=poller, tls=tls and tls[1])) as client:
        ours = await hand_over(client, node)
        (theirs,) = node.streams
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            sent = 0
            blocks = iter(number.to_bytes(4, "big") * 16384 for number in range(1000))
            block = next(blocks)
            idle = 0
            while idle < 20:  # until nothing is taken any more
                try:
                    taken = sender.socket.send(block)
                except BlockingIOError:
                    idle += 1
                    await asyncio.sleep(0.01)
                    continue
                idle, sent, block = 0, sent + taken, block[taken:] or next(blocks)
            assert sent < 16 << 20

            received = await receiver.read(sent)

            assert received == b"".join(number.to_bytes(4, "big") * 16384 for number in range(sent // 65536 + 1))[:sent]
        ours.socket.close()
        assert await theirs.read(1) == b""


@both_ways
async def test_a_stream_ends_with_the_process_at_its_other_end(poller: Poller, contexts: Contexts, *, is_secured: bool) -> None:
    tls = contexts if is_secured else None
    with closing(BareNode(poller, tls)) as node, closing(PeerClient(SECRET, poller=poller, tls=tls and tls[1])) as client:
        ours = await hand_over(client, node)
        (theirs,) = node.streams

        client.close()
        if not is_secured:
            ours.socket.close()

        assert await theirs.read(1) == b""
        ours.socket.close()


@both_ways
async def test_a_machine_that_is_gone_is_noticed_but_a_slow_room_is_not_taken_for_one(
    poller: Poller, contexts: Contexts, *, is_secured: bool
) -> None:
    tls = contexts if is_secured else None
    used: list[socket.socket] = []

    class Watched(PeerClient):
        async def _connect(self, address: str, begun: Channel | None = None) -> Channel:
            channel = await super()._connect(address, begun)
            used.append(channel._transport.get_extra_info("socket"))
            return channel

    with (
        closing(BareNode(poller, tls)) as node,
        closing(Watched(SECRET, poller=poller, tls=tls and tls[1], max_ready=0)) as client,
    ):
        for patience in (1, 45):
            stream = await client.hand_over(node.address, HANDED, patience=patience)
            assert isinstance(stream, OwnerStream)
            sock = used.pop()
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            # In milliseconds. A room that reads nothing for `stall_timeout` is ended by then.
            assert sock.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == max(30, 2 * patience) * 1000
            stream.close()


async def test_the_listener_notices_a_machine_that_is_gone_too(node: BareNode, client: PeerClient) -> None:
    stream = await hand_over(client, node)
    accepted = node.streams[0].socket

    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    stream.socket.close()


async def test_a_connection_kept_ready_is_used(node: BareNode, client: PeerClient) -> None:
    first = await hand_over(client, node)
    await until(lambda: len(client._ready.channels.get(node.address, ())) == 1)
    ready = client._ready.channels[node.address][0].channel._transport.get_extra_info("sockname")

    second = await hand_over(client, node)

    assert second.socket.getsockname() == ready
    await until(lambda: len(client._ready.channels.get(node.address, ())) == 1)
    assert len(node.streams) == 2
    assert len(node.listener.waiting) == 1
    for stream in (first, second):
        stream.socket.close()


async def test_connections_that_are_kept_ready_are_few_and_end(
    node: BareNode, poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "READY_FOR", 0.2)
    with closing(PeerClient(SECRET, poller=poller, max_ready=3)) as client:
        for stream in await asyncio.gather(*(hand_over(client, node) for _ in range(20))):
            stream.socket.close()
        await until(lambda: len(client._ready.channels[node.address]) == 3)

        await until(lambda: not client._ready.channels)

        assert not client._ready.wanted
        await until(lambda: not node.listener.waiting)


async def test_a_connection_that_the_listener_has_ended_is_replaced(node: BareNode, client: PeerClient) -> None:
    (await hand_over(client, node)).socket.close()
    await until(lambda: len(client._ready.channels.get(node.address, ())) == 1)
    for connection in tuple(node.listener.waiting):
        connection.cut("late")
    await asyncio.sleep(0)

    (await hand_over(client, node)).socket.close()

    assert client.results == {"taken": 2}


# --- Answers


@pytest.mark.parametrize("answer", [Answer.NOT_HERE, Answer.DRAINING, Answer.BUSY])
async def test_a_node_can_refuse(node: BareNode, client: PeerClient, answer: Answer) -> None:
    node.decision = answer

    assert await client.hand_over(node.address, HANDED, patience=30) is answer

    assert node.streams == []
    assert client.results == {answer.name.lower(): 1}


async def test_another_secret_is_refused_counted_and_logged_once_a_minute(node: BareNode, poller: Poller) -> None:
    with capture_all_logs() as events, closing(PeerClient(b"another secret", poller=poller)) as stranger:
        for _ in range(3):
            assert await stranger.hand_over(node.address, HANDED, patience=30) is Answer.WRONG_SIGNATURE

    assert node.listener.results["wrong_signature"] == 3
    assert [event["peer"] for event in events if event["event"] == "wrong signature of a node"] == ["127.0.0.1"]
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
        assert asyncio.get_running_loop().time() - started < 1.2
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


async def test_a_node_that_cannot_be_reached_is_named_in_the_log(client: PeerClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = address_of(free)

    with capture_all_logs() as events:
        assert await client.hand_over(address, HANDED, patience=30) is Answer.UNREACHABLE

    assert {event["error"] for event in events} == {"connection refused"}
    with pytest.raises(PeerError, match=f"{address}: connection refused"):
        await client.request(address, b"", timeout=1)


async def test_a_server_that_is_no_node_and_one_that_does_not_answer_are_unreachable(
    client: PeerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_client, "CONNECT_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await client.hand_over(address_of(silent), HANDED, patience=30) is Answer.UNREACHABLE
        with pytest.raises(PeerError, match=f"{address_of(silent)}: no greeting within"):
            await client.request(address_of(silent), b"", timeout=20)
    async with answering(b"220 mail.example.com ESMTP\r\n") as address:
        assert await client.hand_over(address, HANDED, patience=30) is Answer.UNREACHABLE


async def test_a_listener_that_does_not_answer_is_given_up(client: PeerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(ready, "READY_FOR", 0.3)

    async with answering(encode_greeting(bytes(16))) as address:
        assert await client.hand_over(address, HANDED, patience=30) is Answer.UNREACHABLE


async def test_a_cancelled_hand_over_leaves_nothing(node: BareNode, client: PeerClient) -> None:
    for steps in range(8):
        task = asyncio.ensure_future(client.hand_over(node.address, HANDED, patience=30))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            found = await task
            assert isinstance(found, OwnerStream)
            found.close()

    for stream in node.streams:
        assert await stream.read(1) == b""


# --- Requests


@both_ways
async def test_a_request_is_answered(poller: Poller, contexts: Contexts, *, is_secured: bool) -> None:
    tls = contexts if is_secured else None
    with closing(BareNode(poller, tls)) as node, closing(PeerClient(SECRET, poller=poller, tls=tls and tls[1])) as client:
        long = bytes(range(256)) * 4000

        assert await client.request(node.address, long, timeout=5) == long[::-1]
        assert await client.request(node.address, b"", timeout=5) == b""

        assert node.requests == [long, b""]


async def test_a_request_that_fails_takes_too_long_or_is_refused_is_an_error(
    node: BareNode, client: PeerClient, poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_all_logs() as events, pytest.raises(PeerError, match=r"closed the connection|reset by peer"):
        await client.request(node.address, b"fail", timeout=5)
    assert [event["event"] for event in events] == ["answering a node failed"]
    with pytest.raises(PeerError, match=f"{node.address}: no response within 0.1 s"):
        await client.request(node.address, b"wait", timeout=0.1)
    await until(lambda: not node.listener.requests)  # nobody waits for it any more
    with closing(PeerClient(b"another secret", poller=poller)) as stranger, pytest.raises(RefusedError, match="wrong signature"):
        await stranger.request(node.address, b"", timeout=5)
    with capture_all_logs() as events, pytest.raises(RefusedError, match=r"invalid \(does it run another version\?\)"):
        await client.request(node.address, b"unknown", timeout=5)
    assert [(event["event"], event["log_level"]) for event in events] == [("wrong message of a node", "warning")]
    with pytest.raises(PeerError, match=r"the request is too long \(2000000 bytes\)"):
        await client.request(node.address, bytes(2_000_000), timeout=5)
    monkeypatch.setattr(peer_client, "MAX_RESPONSE", 3)
    with pytest.raises(PeerError, match=r"the response is too long \(4 bytes\)"):
        await client.request(node.address, b"long", timeout=5)
    monkeypatch.setattr(arrivals, "MAX_REQUESTS", 0)
    with pytest.raises(RefusedError, match="the node answers busy"):
        await client.request(node.address, b"", timeout=5)


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
    monkeypatch.setattr(peers, "PREAMBLE_TIMEOUT", 0.3)
    monkeypatch.setattr(peers, "MAX_WAITING", 3)
    with closing(BareNode(poller, contexts)) as node:
        host, port = node.address.split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(10)]
        await until(lambda: len(node.listener._handshakes) == 3)

        with closing(PeerClient(SECRET, poller=poller, tls=contexts[1])) as client:
            (await hand_over(client, node)).socket.close()

        await until(lambda: not node.listener._handshakes)
        for sock in silent:
            sock.close()
