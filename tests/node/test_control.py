"""What an operator of one node sees and does with the others, and a process under the name of another, without an engine."""

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import msgspec
import pytest

from scalesocket.cluster.claims import Claims
from scalesocket.cluster.directory import Directory, NameTakenError
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.peer_client import PeerClient, PeerError, RefusedError
from scalesocket.cluster.records import Load, NodeAddress, NodeStatus, Session, Taken
from scalesocket.cluster.requests_of_nodes import DrainNode, Identify, Identity, Operate, decode_request, encode
from scalesocket.control.messages import ClusterDrain, Outcome, Say, Stop
from scalesocket.gateway import Gateway
from scalesocket.node.control import NodeControl
from scalesocket.node.name_check import NameCheck
from scalesocket.node.node import Node
from scalesocket.node.respond import Responder
from scalesocket.operations.lookup import OperationError
from scalesocket.workers.own_rooms import OwnRooms
from scalesocket.workers.site_messages import Ran
from tests.conftest import capture_all_logs

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakePeers:
    """Other processes, by address: what they answer to a request, or the error."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[tuple[str, object]] = []

    async def request(self, address: str, payload: bytes, *, timeout: float) -> bytes:
        self.asked.append((address, decode_request(payload)))
        answer = self.answers.get(address, PeerError(f"{address}: connection refused"))
        if isinstance(answer, Exception):
            raise answer
        return msgspec.msgpack.encode(answer)


class FakeNode:
    """This process: the node `a`, with the session `inc-a`."""

    name = "a"

    def __init__(self, *nodes: NodeStatus) -> None:
        self.nodes = nodes
        self.is_engine_up = True
        self.drained = 0
        self.lease = SimpleNamespace(is_valid=True)
        self.directory = SimpleNamespace(
            session=Session("a", "inc-a", "epoch"), listing=SimpleNamespace(nodes=self.list), node="a", advertise="at-a"
        )

    async def list(self) -> Sequence[NodeStatus]:
        if not self.is_engine_up:
            raise EngineUnavailableError("no answer within 2 s")
        return self.nodes

    def drain(self) -> Outcome:
        self.drained += 1
        return Outcome(rooms=1, clients=2)

    def lose(self) -> None:
        """Have no lease any more, or none yet."""
        self.lease.is_valid = False
        self.directory.session = None


def node(name: str, inc: str = "", *, at: str = "", left: float = 10.0, seen: float = 1.0) -> NodeStatus:
    address = NodeAddress(name, inc or f"inc-{name}", at or f"at-{name}")
    return NodeStatus(address=address, version="1.0", load=Load(clients=4), owned=3, seconds_left=left, last_seen=seen)


def control(this: FakeNode, peers: FakePeers) -> NodeControl:
    return NodeControl(cast(Node, this), cast(Gateway, None), cast(PeerClient, peers))


async def test_the_list_of_nodes_says_which_of_them_answer() -> None:
    this = FakeNode(node("a"), node("b"), node("c", left=0.0, seen=30.0), node("d"), node("e"), node("f"))
    peers = FakePeers(
        **{
            "at-b": Identity("b", "inc-b", is_stopping=False),
            "at-d": Identity("other", "inc-o", is_stopping=False),
            "at-e": Identity("e", "", is_stopping=False),
            "at-f": RefusedError("at-f: the node answers wrong signature"),
        }
    )

    entries = await control(this, peers).list_nodes()

    assert [(entry.node, entry.answers, entry.problem) for entry in entries] == [
        ("a", True, None),
        ("b", True, None),
        ("c", False, "at-c: connection refused"),
        ("d", False, "at-d: the node 'other' listens there"),
        ("e", False, "at-e: another process with this name listens there, and waits for the end of the lease"),
        ("f", False, "at-f: the node answers wrong signature"),
    ]
    assert [entry.is_here for entry in entries] == [True, False, False, False, False, False]
    assert [(entry.state, entry.lease, entry.last_seen) for entry in entries[1:3]] == [
        ("serving", 10.0, 1.0),
        ("lost", 0.0, 30.0),
    ]
    assert "at-a" not in [address for address, _ in peers.asked]


async def test_a_node_with_a_lease_drains_itself_also_without_the_engine() -> None:
    this, peers = FakeNode(), FakePeers()
    this.is_engine_up = False

    assert await control(this, peers).drain_node("a") == Outcome(rooms=1, clients=2)

    assert (this.drained, peers.asked) == (1, [])


async def test_a_process_without_the_lease_drains_the_one_that_has_its_name() -> None:
    this = FakeNode(node("a", "inc-of-first", at="elsewhere"))
    peers = FakePeers(elsewhere=Ran(result=msgspec.Raw(encode(Outcome(rooms=7, clients=8)))))
    this.lose()

    assert await control(this, peers).drain_node("a") == Outcome(rooms=7, clients=8)

    assert peers.asked == [("elsewhere", DrainNode("a", "inc-of-first", "node a"))]
    assert this.drained == 0
    peers.answers.clear()
    with pytest.raises(OperationError, match="the node 'a' is not reached: elsewhere: connection refused"):
        await control(this, peers).drain_node("a")
    this.is_engine_up = False
    with pytest.raises(OperationError, match="the engine does not answer"):
        await control(this, peers).drain_node("a")
    assert this.drained == 0


def responder(this: FakeNode) -> Callable[[bytes], Any]:
    made = Responder(cast(Directory, this.directory), cast(Claims, None), lambda: True, this.drain)
    return made.respond


async def test_only_the_process_with_the_session_is_drained() -> None:
    this = FakeNode()
    respond = responder(this)

    async def drain(inc: str) -> Ran:
        return msgspec.msgpack.decode(await respond(encode(DrainNode("a", inc, "node b"))), type=Ran)

    assert (await drain("inc-of-first")).error == "another process is at at-a by now (try again)"
    assert this.drained == 0
    assert (await drain("inc-a")).is_done
    assert this.drained == 1
    this.lose()
    assert not (await drain("inc-a")).is_done
    assert msgspec.msgpack.decode(await respond(encode(Identify())), type=Identity) == Identity("a", "", is_stopping=False)
    answer = await respond(encode(Operate(ClusterDrain(node="a"), "node b")))  # which would be passed on without end
    assert msgspec.msgpack.decode(answer, type=Ran).error == "cluster-drain is not for a node to ask"
    assert this.drained == 1


async def test_the_node_that_carries_out_an_operation_logs_who_asked_for_what() -> None:
    made = Responder(cast(Directory, FakeNode().directory), cast(Claims, None), lambda: True, FakeNode().drain)
    done = Ran(result=msgspec.Raw(encode(Outcome(rooms=1, clients=2))))
    made.own = cast(OwnRooms, SimpleNamespace(run=AsyncMock(return_value=done)))
    say = Say(app="chat", room="a*", text="a secret")

    with capture_all_logs() as events:
        await made.respond(encode(Operate(Stop(app="chat", room="lobby"), "node b")))
        await made.respond(encode(Operate(say, "node b")))

    who = {"asked_by": "node b", "log_level": "info", "event": "operation", "is_done": True}
    assert events == [
        who | {"operation": "stop", "app": "chat", "room": "lobby"},
        who | {"operation": "say", "app": "chat", "room": "a*"},
    ]


# --- Another process under the name of this node


def taken(ends: int = 1) -> Taken:
    return Taken("there", "inc-first", 5.0, ends)


async def check(name_check: NameCheck, answer: object, found: Taken) -> str | None:
    """Return why a process does not start; None: it waits."""
    try:
        await name_check.check(cast(PeerClient, FakePeers(there=answer)), found)
    except NameTakenError as error:
        return str(error)
    return None


GONE = PeerError("there: connection refused")


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([(Identity("a", "inc-first", is_stopping=False), 1)], r"at there: it answers \(give each process its own cluster.node"),
        ([(RefusedError("the node answers busy"), 1)], "it runs, but refuses to answer: the node answers busy"),
        ([(GONE, 1), (GONE, 1), (GONE, 2)], "it renews its lease, but is not reached: there: connection refused"),
    ],
    ids=["answers", "refuses", "renews"],
)
async def test_a_process_does_not_start_while_another_of_its_name_runs(answers: list[tuple[object, int]], text: str) -> None:
    name_check = NameCheck("a")

    *before, refusal = [await check(name_check, answer, taken(ends)) for answer, ends in answers]

    assert not any(before)
    assert re.search(text, refusal or ""), refusal


@pytest.mark.parametrize(
    "answers",
    [
        [(GONE, 1), (GONE, 1)],
        [
            (Identity("a", "inc-first", is_stopping=True), 1),
            (Identity("a", "inc-first", is_stopping=True), 2),
            (GONE, 3),
            (GONE, 3),
        ],
        [(Identity("a", "", is_stopping=False), 1)],
        [(Identity("b", "inc-b", is_stopping=False), 1)],
    ],
    ids=["crashed", "stops", "itself", "another node"],
)
async def test_a_process_waits_for_the_lease_of_one_that_has_crashed_or_stops(answers: list[tuple[object, int]]) -> None:
    name_check = NameCheck("a")

    found = [await check(name_check, answer, taken(ends)) for answer, ends in answers]

    assert not any(found)
