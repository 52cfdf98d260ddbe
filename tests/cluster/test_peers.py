"""Connections between nodes: streams, connections that are kept ready, nodes that cannot be reached, and requests."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import msgspec
import pytest

from scalesocket.cluster import arrivals, peer_client, ready
from scalesocket.cluster.channels import Channel
from scalesocket.cluster.keep_alive import TCP_USER_TIMEOUT
from scalesocket.cluster.peer_client import PeerClient, RefusedError
from scalesocket.cluster.preamble import Answer, encode_greeting
from scalesocket.cluster.ready import PeerError
from scalesocket.io.poller import Poller
from scalesocket.placement.stream import Stream as OwnerStream
from tests.backends.recording import until
from tests.cluster.nodes import HANDED, SECRET, BareNode, Contexts, address_of, both_ways, hand_over
from tests.conftest import capture_all_logs

pytestmark = pytest.mark.anyio


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


# --- Nodes that cannot be reached


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
