"""Hand-overs to an owner that does not answer: the room is followed as soon as it has another owner."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Final

import msgspec
import pytest

from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.preamble import Answer, encode_greeting
from scalesocket.cluster.remote import SILENCE, Claim, RemoteNode
from scalesocket.io.poller import Poller
from scalesocket.placement.facts import Kind
from scalesocket.placement.placement import HERE, Here
from scalesocket.placement.stream import Stream
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


async def connect(client: PeerClient, owner: str, directory: Directory) -> Stream | Here | None:
    node = RemoteNode(client, Claim(owner, FENCE), directory.locate)
    async with asyncio.timeout(2.5):  # less than an owner has for its answer
        return await node.connect(msgspec.structs.replace(make_facts(), kind=Kind.PAIR), patience=30)


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
