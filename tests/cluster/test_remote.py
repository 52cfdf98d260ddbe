"""Hand-overs to an owner that does not answer: the room is followed as soon as it has another owner."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from typing import Final

import msgspec
import pytest

from scalesocket.cluster.channels import PlainChannel
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.preamble import Answer, encode_greeting
from scalesocket.cluster.remote import SILENCE, Claim, Note, RemoteNode
from scalesocket.io.poller import Poller
from scalesocket.placement.facts import Kind
from scalesocket.placement.placement import HERE, Here
from scalesocket.placement.stream import Stream
from tests.backends.recording import until
from tests.cluster.nodes import SECRET, BareNode, address_of
from tests.placement.test_facts import make_facts

pytestmark = pytest.mark.anyio
FENCE: Final = 5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[PeerClient]:
    with closing(Poller(asyncio.get_running_loop())) as poller, closing(PeerClient(SECRET, poller=poller, max_ready=0)) as client:
        yield client


class Directory:
    """Names the owner of a room when it is asked, or when it knows one."""

    def __init__(self, *found: Claim | Here | None) -> None:
        self.found = list(found)
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.given_up = 0

    async def locate(self) -> Claim | Here | None:
        self.asked += 1
        self.was_asked.set()
        try:
            return self.found.pop(0) if self.found else await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.given_up += 1
            raise


@pytest.fixture(params=[True, False], ids=["begun without waiting", "with waiting"], autouse=True)
def _begins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(PeerClient, "begin", lambda *_, **__: None)


async def connect(client: PeerClient, owner: str, directory: Directory, note: Note | None = None) -> Stream | Here | None:
    node = RemoteNode(client, Claim(owner, FENCE), directory.locate, note)
    facts = msgspec.structs.replace(make_facts(), kind=Kind.PAIR)
    begun: asyncio.Future[Stream | None] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(2.5):  # less than an owner has for its answer
        attempt = node.begin(facts, patience=30, done=lambda stream: begun.cancelled() or begun.set_result(stream))
        try:
            stream = None if attempt is None else await begun
            return await node.connect(facts, patience=30) if stream is None else stream
        except asyncio.CancelledError:
            if attempt is not None:
                attempt.cancel()
            raise


async def test_a_room_that_moves_here_while_its_owner_is_silent_is_opened_here(client: PeerClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stopped:  # the kernel accepts, and nobody reads
        began = time.monotonic()

        assert await connect(client, address_of(stopped), Directory(HERE)) is HERE

        assert SILENCE <= time.monotonic() - began < 4 * SILENCE
        await asyncio.sleep(0)  # in which the connection is closed
        with stopped.accept()[0] as accepted:
            assert accepted.recv(1) == b""
    assert client.results == {"unreachable": 1}


async def test_a_room_that_moves_while_its_owner_is_silent_is_followed(client: PeerClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stopped, closing(BareNode(client._poller)) as owner:
        directory = Directory(Claim(owner.address, FENCE + 1))

        stream = await connect(client, address_of(stopped), directory)

        assert isinstance(stream, Stream)
        stream.close()
        assert [handed.fence for handed in owner.handed] == [FENCE + 1]
    assert directory.asked == 1
    assert client.results == {"unreachable": 1, "taken": 1}


@pytest.mark.parametrize("found", ["nobody", "the same owner", "nothing yet"])
async def test_a_slow_owner_is_waited_for_while_the_directory_names_no_other(client: PeerClient, found: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_greeting(bytes(16)))
        await asyncio.sleep(2 * SILENCE)
        writer.write(bytes([Answer.TAKEN]))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = address_of(server.sockets[0])
        answers: dict[str, list[Claim | None]] = {"nobody": [None], "the same owner": [Claim(address, FENCE)], "nothing yet": []}
        directory = Directory(*answers[found])

        stream = await connect(client, address, directory)

        assert isinstance(stream, Stream)
        stream.close()
        await asyncio.sleep(0)
    assert directory.asked == 1
    assert directory.given_up == (found == "nothing yet")


async def test_an_owner_that_answers_at_once_costs_the_directory_no_question(client: PeerClient) -> None:
    with closing(BareNode(client._poller)) as owner:
        directory = Directory()
        stream = await connect(client, owner.address, directory)

        assert isinstance(stream, Stream)
        stream.close()
        await asyncio.sleep(2 * SILENCE)  # nothing is to happen
    assert directory.asked == 0


async def test_a_client_that_leaves_ends_the_questions(client: PeerClient) -> None:
    directory = Directory()
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        connecting = asyncio.create_task(connect(client, address_of(stopped), directory))
        await directory.was_asked.wait()
        connecting.cancel()
        await asyncio.wait({connecting})
        await asyncio.sleep(0)

    assert directory.given_up == 1
    assert client.results == {}


async def test_an_owner_that_refuses_is_asked_once_and_the_next_one_after_it(client: PeerClient) -> None:
    noted: list[tuple[Claim, bool]] = []
    with closing(BareNode(client._poller)) as old, closing(BareNode(client._poller)) as new:
        old.decision = Answer.NOT_HERE
        moved = Claim(new.address, FENCE + 1)

        stream = await connect(
            client, old.address, Directory(moved), lambda claim, taken: noted.append((claim, taken is not None))
        )

        assert isinstance(stream, Stream)
        stream.close()
        assert old.listener.results == {"not_here": 1}
        assert noted == [(Claim(old.address, FENCE), False), (moved, True)]
        await asyncio.sleep(0)
    assert client.results == {"not_here": 1, "taken": 1}


async def test_what_the_owner_sends_with_its_answer_is_not_lost(client: PeerClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_greeting(bytes(16)))
        await reader.read(1)
        writer.write(bytes([Answer.TAKEN]) + b"HTTP/1.1 101")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        stream = await connect(client, address_of(server.sockets[0]), Directory())

        assert isinstance(stream, Stream)
        assert stream.early == b"HTTP/1.1 101"
        stream.close()
        await asyncio.sleep(0)


async def test_a_connection_that_is_lost_with_the_answer_is_like_a_node_that_was_not_reached(
    client: PeerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(channel: PlainChannel) -> Stream:
        raise ConnectionResetError

    monkeypatch.setattr(PlainChannel, "detach", fail)
    with closing(BareNode(client._poller)) as owner:
        assert await connect(client, owner.address, Directory(HERE)) is HERE
        await asyncio.sleep(0)
    assert client.results == {"unreachable": 1}


async def test_a_client_that_leaves_at_any_moment_closes_its_connection(client: PeerClient) -> None:
    with closing(BareNode(client._poller)) as owner:
        for steps in range(12):
            connecting = asyncio.create_task(connect(client, owner.address, Directory()))
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                stream = await connecting
                assert isinstance(stream, Stream)
                stream.close()

        for theirs in owner.streams:
            assert await theirs.read(1) == b""
        await until(lambda: not owner.listener.waiting)
