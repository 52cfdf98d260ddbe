"""Responses of nodes that go on: sent as fast as they are read, until either side ends them."""

import asyncio
from contextlib import closing

import pytest

from scalesocket.cluster import arrivals, outgoing_stream, peer_stream
from scalesocket.cluster.peer_client import PeerClient, RefusedError
from scalesocket.cluster.peer_stream import open_stream
from scalesocket.cluster.ready import PeerError
from scalesocket.io.poller import Poller
from tests.backends.recording import until
from tests.cluster.nodes import SECRET, BareNode, Contexts, both_ways
from tests.conftest import capture_all_logs

pytestmark = pytest.mark.anyio
BLOCK = bytes(60_000)


@both_ways
async def test_blocks_arrive_in_order_until_the_end(poller: Poller, contexts: Contexts, *, is_secured: bool) -> None:
    tls = contexts if is_secured else None
    with closing(BareNode(poller, tls)) as node, closing(PeerClient(SECRET, poller=poller, tls=tls and tls[1])) as client:
        stream = await open_stream(client, node.address, b"first", timeout=5)
        (sent,) = node.sent
        for block in (b"one", BLOCK, b"", b"two", None):
            sent.blocks.put_nowait(block)

        assert stream.first == b"first"
        assert [await stream.read() for _ in range(4)] == [b"one", BLOCK, b"two", None]
        await until(lambda: sent.is_closed and not node.listener.streaming)
        assert node.listener.results == {"stream": 1}
        stream.close()


@both_ways
async def test_a_source_is_asked_only_for_what_is_read(poller: Poller, contexts: Contexts, *, is_secured: bool) -> None:
    tls = contexts if is_secured else None
    with closing(BareNode(poller, tls)) as node, closing(PeerClient(SECRET, poller=poller, tls=tls and tls[1])) as client:
        stream = await open_stream(client, node.address, b"first", timeout=5)
        (sent,) = node.sent
        for number in range(1000):
            sent.blocks.put_nowait(number.to_bytes(4, "big") + BLOCK)
        asked = -1
        while sent.asked > asked:  # until the kernels keep no more
            asked = sent.asked
            await asyncio.sleep(0.1)

        assert sent.asked < 300
        for number in range(1000):
            assert await stream.read() == number.to_bytes(4, "big") + BLOCK
        stream.close()


@both_ways
async def test_a_stream_ends_with_the_node_that_asked(poller: Poller, contexts: Contexts, *, is_secured: bool) -> None:
    tls = contexts if is_secured else None
    with closing(BareNode(poller, tls)) as node, closing(PeerClient(SECRET, poller=poller, tls=tls and tls[1])) as client:
        stream = await open_stream(client, node.address, b"first", timeout=5)
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)

        reading.cancel()
        stream.close()
        stream.close()

        await until(lambda: node.sent[0].is_closed and not node.listener.streaming)


async def test_a_stream_ends_with_the_node_that_was_asked(node: BareNode, client: PeerClient) -> None:
    stream = await open_stream(client, node.address, b"first", timeout=5)

    node.listener.close()

    with pytest.raises(PeerError, match=r"closed the connection|reset by peer"):
        await stream.read()
    assert node.sent[0].is_closed
    stream.close()


async def test_a_stream_ends_when_the_other_node_sends_nothing_any_more(
    node: BareNode, client: PeerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing_stream, "HEARTBEAT_TIMEOUT", 1.5)
    silent = await open_stream(client, node.address, b"silent", timeout=5)
    monkeypatch.setattr(peer_stream, "HEARTBEAT_INTERVAL", 0.05)
    present = await open_stream(client, node.address, b"present", timeout=5)

    await until(lambda: node.sent[0].is_closed)
    await asyncio.sleep(1.6)  # what must not happen has no event

    assert not node.sent[1].is_closed
    for stream in (silent, present):
        stream.close()
    await until(lambda: not node.listener.streaming)


async def test_a_stream_that_is_refused_fails_or_takes_too_long_is_an_error(
    node: BareNode, client: PeerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(word: bytes, text: str, kind: type[Exception] = PeerError) -> None:
        with pytest.raises(kind, match=text):
            await open_stream(client, node.address, word, timeout=0.5)
        await until(lambda: not node.listener.streaming)

    with capture_all_logs() as events:
        await fail(b"fail", r"closed the connection|reset by peer")
        await fail(b"unknown", r"invalid \(does it run another version\?\)", RefusedError)
    assert [event["event"] for event in events] == ["stream to a node failed", "wrong message of a node"]
    await fail(b"wait", f"{node.address}: no response within 0.5 s")
    await fail(bytes(100_000), "the request is too long")
    monkeypatch.setattr(peer_stream, "MAX_BLOCK", 4)
    await fail(b"long block", r"a block is too long \(10 bytes\)")
    monkeypatch.setattr(arrivals, "MAX_STREAMS", 0)
    await fail(b"first", "the node answers busy", RefusedError)
