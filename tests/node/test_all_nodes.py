"""Operations on the rooms of all nodes, without an engine: what is said of nodes that are not reached."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import msgspec
import pytest

from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.ready import PeerError
from scalesocket.cluster.records import Load, NodeAddress, NodeStatus
from scalesocket.cluster.requests_of_nodes import AwaitEnd, Operate, ReleaseHeld, decode_request
from scalesocket.control.lists import RoomEntry, RoomList
from scalesocket.control.messages import Clients, Drain, Kick, Outcome, Request, Rooms, Say, SayOutcome, Stop, Tail, TailEvent
from scalesocket.node import all_nodes
from scalesocket.node.all_nodes import AllNodes, EndingOnNodes
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.operations.running import Clustered, Running
from scalesocket.operations.table import Tailing
from scalesocket.workers.own_rooms import OwnRooms
from scalesocket.workers.site_messages import Missing, Ran
from tests.rooms.acting import MemoryServe, in_memory


class Other:
    """What another node answers."""

    def __init__(self, ran: Ran | None = None) -> None:
        """None: it is not reached."""
        self.ran = ran
        self.asked: list[object] = []


class FakePeers:
    """Other nodes, by name, which is also their address."""

    def __init__(self, **others: Other) -> None:
        self.others = others
        self.is_engine_up = True

    async def find_others(self) -> Sequence[NodeStatus]:
        if not self.is_engine_up:
            raise EngineUnavailableError("no answer")
        return [
            NodeStatus(address=NodeAddress(name, "inc", name), version="1", load=Load(), owned=0, seconds_left=1.0)
            for name in self.others
        ]

    async def request(self, address: str, payload: bytes, *, timeout: float) -> bytes:
        other, request = self.others[address], decode_request(payload)
        other.asked.append(request)
        if other.ran is None or isinstance(request, AwaitEnd):
            raise PeerError(f"{address}: connection refused")
        return msgspec.msgpack.encode(None if isinstance(request, ReleaseHeld) else other.ran)


class FakeStream:
    """The tail of another node (`PeerStream`)."""

    def __init__(self, ran: Ran) -> None:
        self.first = msgspec.msgpack.encode(ran)
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        """None: the node is lost."""
        self.is_closed = False

    async def read(self) -> bytes:
        lines = await self.lines.get()
        if lines is None:
            raise PeerError("connection reset by peer")
        return lines

    def close(self) -> None:
        self.is_closed = True


class Named:
    """This server is the node `a`."""

    node = "a"


class Nodes:
    """The node `a` with a room `chat/den`, and others that are not real."""

    def __init__(self, running: Running, peers: FakePeers) -> None:
        self.peers = peers
        self.all = AllNodes("a", running, OwnRooms(running), peers.find_others, cast(PeerClient, peers))

    async def run(self, request: Request) -> Any:
        return await self.all.carry_out(request)


async def open_nodes(serve: MemoryServe, **others: Other) -> Nodes:
    site = await serve(chat={"command": ["cat"]})
    await site.join("/chat/den")
    return Nodes(Running(site.gateway, cluster=cast(Clustered, Named())), FakePeers(**others))


def ran(result: object, held: int | None = None) -> Ran:
    return Ran(result=msgspec.Raw(msgspec.msgpack.encode(result)), held=held)


def rooms(*names: str, node: str) -> Ran:
    entries = [
        RoomEntry(
            app="chat", room=name, node=node, state="open", clients=0, pid=1, messages_in=0, messages_out=0, messages_dropped=0
        )
        for name in names
    ]
    return ran(RoomList(rooms=tuple(entries)))


MISSING = Ran(missing=Missing(text="there is no open room 'x' of chat", certainty=0, word="x"))


@in_memory
async def test_lists_name_the_node_of_each_room_and_the_nodes_that_are_not_reached(serve: MemoryServe) -> None:
    nodes = await open_nodes(serve, b=Other(rooms("nest", node="b")), c=Other(), d=Other(Ran(error="it is broken")))

    found = await nodes.run(Rooms())

    assert [(room.room, room.node) for room in found.rooms] == [("den", "a"), ("nest", "b")]
    assert found.unreachable == ("c", "d")
    nodes.peers.others = {"c": Other()}
    clients = await nodes.run(Clients())
    assert [(client.room, client.node) for client in clients.clients] == [("den", "a")]
    assert clients.unreachable == ("c",)


@in_memory
async def test_without_the_engine_the_other_nodes_are_not_known(serve: MemoryServe) -> None:
    nodes = await open_nodes(serve)
    nodes.peers.is_engine_up = False

    assert (await nodes.run(Rooms())).unreachable == ("*",)
    assert await nodes.run(Say(app="chat", room="*", text="hi")) == SayOutcome(
        rooms=1, delivered=1, dropped=0, unreachable=("*",)
    )
    with pytest.raises(NotFoundError, match=r"'x' of chat \(the engine does not answer, so only this node was asked"):
        await nodes.run(Stop(app="chat", room="x"))


@in_memory
async def test_a_change_is_made_where_it_can_be_and_names_the_nodes_that_are_not_reached(serve: MemoryServe) -> None:
    nodes = await open_nodes(serve, b=Other(ran(Outcome(rooms=2, clients=3))), c=Other())

    outcome = await nodes.run(Drain(app="chat"))

    assert outcome == Outcome(rooms=3, clients=4, unreachable=("c",))


@in_memory
async def test_a_room_that_a_node_has_is_on_no_node_that_is_not_reached(serve: MemoryServe) -> None:
    nodes = await open_nodes(serve, b=Other(MISSING), c=Other())

    assert (await nodes.run(Rooms(app="chat", room="den"))).unreachable == ()
    assert await nodes.run(Say(app="chat", room="den", text="hi")) == SayOutcome(rooms=1, delivered=1, dropped=0)


@in_memory
async def test_what_is_not_found_may_be_on_a_node_that_is_not_reached(serve: MemoryServe) -> None:
    nodes = await open_nodes(serve, b=Other(MISSING), c=Other())

    with pytest.raises(NotFoundError, match=r"there is no open room 'x' of chat \(not reached: c; scalesocket cluster"):
        await nodes.run(Say(app="chat", room="x", text="hi"))


@in_memory
async def test_an_error_of_a_node_that_is_reached_is_an_error(serve: MemoryServe) -> None:
    nodes = await open_nodes(serve, b=Other(Ran(error="it is broken")))

    with pytest.raises(OperationError, match=r"node b: it is broken \(done on the other nodes: 1 room\)"):
        await nodes.run(Stop(app="chat", room="*"))


@in_memory
async def test_a_request_that_all_nodes_refuse_for_one_reason_names_none(serve: MemoryServe) -> None:
    text = "invalid close code 7 (1000, or 4000 to 4999)"
    nodes = await open_nodes(serve, b=Other(Ran(error=text)))

    with pytest.raises(OperationError) as raised:
        await nodes.run(Kick(app="chat", room="*", user="ann", code=7))

    assert str(raised.value) == text


@in_memory
async def test_a_result_that_is_not_understood_is_left_out(serve: MemoryServe) -> None:
    nodes = await open_nodes(serve, b=Other(ran(["a list of another version"])))

    found = await nodes.run(Rooms())

    assert [room.room for room in found.rooms] == ["den"]
    assert found.unreachable == ("b",)
    assert "does it run another version?" in serve.logged("node not reached")[0]["error"]


@in_memory
async def test_a_node_that_is_lost_while_its_rooms_end_is_named(serve: MemoryServe) -> None:
    other = Other(ran(Outcome(rooms=2, clients=0), held=5))
    nodes = await open_nodes(serve, b=other, c=Other())

    ending = await nodes.run(Stop(app="chat", room="*", wait=10))

    assert isinstance(ending, EndingOnNodes)
    async with asyncio.timeout(10):
        outcome = await ending.wait_ended(10)
    assert outcome == Outcome(rooms=3, clients=1, pending=2, unreachable=("c", "b"))
    assert [type(request) for request in other.asked] == [Operate, AwaitEnd, ReleaseHeld]


@in_memory
async def test_the_waits_of_all_nodes_are_ended_at_the_same_time(serve: MemoryServe, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {name: Other(ran(Outcome(rooms=1, clients=0), held=5)) for name in ("b", "c")}
    nodes = await open_nodes(serve, **others)
    ending = await nodes.run(Stop(app="chat", room="*", wait=10))
    request, are_asked = nodes.peers.request, asyncio.Barrier(len(others))

    async def answer_together(address: str, payload: bytes, *, timeout: float) -> bytes:
        if isinstance(decode_request(payload), ReleaseHeld):
            await are_asked.wait()
        return await request(address, payload, timeout=timeout)

    monkeypatch.setattr(nodes.peers, "request", answer_together)

    async with asyncio.timeout(10):
        await ending.wait_ended(10)

    assert [[type(asked) for asked in other.asked] for other in others.values()] == [[Operate, AwaitEnd, ReleaseHeld]] * 2


# --- Tails


async def read_all(tail: Tailing) -> AsyncIterator[bytes]:
    while (chunk := await tail.read()) is not None:
        yield chunk


def open_tails_of(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeStream]:
    """Let the other nodes send streams; return those that were opened, by node."""
    streams: dict[str, FakeStream] = {}

    async def open_stream(_: object, address: str, payload: bytes, *, timeout: float) -> FakeStream:
        request, found = decode_request(payload), nodes.peers.others[address].ran
        assert isinstance(request, Operate)
        assert isinstance(request.request, Tail)
        if found is None:
            raise PeerError(f"{address}: connection refused")
        streams[address] = FakeStream(found)
        return streams[address]

    monkeypatch.setattr(all_nodes, "open_stream", open_stream)
    return streams


@in_memory
async def test_a_tail_shows_the_rooms_of_all_nodes_until_the_last_is_lost(
    serve: MemoryServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve(chat={"command": ["cat"]})
    ann = await site.join("/chat/den")
    peers = FakePeers(b=Other(ran(Outcome(rooms=2, clients=5))), c=Other(MISSING), d=Other())
    nodes = Nodes(Running(site.gateway, cluster=cast(Clustered, Named())), peers)
    streams = open_tails_of(nodes, monkeypatch)

    tail = await nodes.all.open_tail(Tail(app="chat", room="*"))

    assert tail.outcome == Outcome(rooms=3, clients=6, unreachable=("d",))
    assert (streams["b"].is_closed, streams["c"].is_closed) == (False, True)
    streams["b"].lines.put_nowait(b"of b\n")
    assert await tail.read() == b"of b\n"
    await ann.say("hello")
    await ann.hear("hello")
    streams["b"].lines.put_nowait(None)
    await ann.leave()
    await site.wait_no_rooms()
    chunks = [chunk async for chunk in read_all(tail)]

    events = [msgspec.json.decode(line, type=TailEvent) for line in b"".join(chunks).splitlines()]
    assert [(event.event, event.text) for event in events if event.app] == [("in", "hello"), ("out", "hello"), ("ended", None)]
    assert [(event.node, event.count) for event in events if event.event == "lost"] == [("b", 2)]
    assert streams["b"].is_closed


@in_memory
async def test_a_tail_that_is_closed_or_refused_ends_on_all_nodes(serve: MemoryServe, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = await open_nodes(serve, b=Other(ran(Outcome(rooms=1, clients=1))))
    streams = open_tails_of(nodes, monkeypatch)
    tail = await nodes.all.open_tail(Tail(app="chat", room="*"))
    reading = asyncio.ensure_future(tail.read())
    await asyncio.sleep(0)
    reading.cancel()

    tail.close()
    tail.close()

    assert streams["b"].is_closed
    nodes.peers.others["b"].ran = ran(Outcome(rooms=1000, clients=0))
    with pytest.raises(OperationError, match=r"1001 rooms match \(at most 1000 at a time\)"):
        await nodes.all.open_tail(Tail(app="chat", room="*"))
    assert streams["b"].is_closed
    nodes.peers.others["b"].ran = Ran(error="1200 rooms match")
    with pytest.raises(OperationError, match=r"^node b: 1200 rooms match$"):
        await nodes.all.open_tail(Tail(app="chat", room="*"))
    assert streams["b"].is_closed
    nodes.peers.others["b"].ran = MISSING
    with pytest.raises(NotFoundError):
        await nodes.all.open_tail(Tail(app="chat", room="x"))
