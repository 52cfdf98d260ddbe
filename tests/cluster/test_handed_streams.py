"""Clients that pass to an owner whose session has ended: cut, unless the room may still be there."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from typing import cast

import pytest

from scalesocket.cluster.directory import Directory
from scalesocket.cluster.handed_streams import HandedStreams
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.records import Free, Load, NodeAddress, NodeStatus, Owned, Recovering, RoomName
from scalesocket.cluster.remote import Claim
from scalesocket.io.poller import Poller
from scalesocket.placement.stream import Stream, open_stream

pytestmark = pytest.mark.anyio
A, B, ALIVE = "a:9100", "b:9100", "c:9100"
DEN, NEST = RoomName("chat", "den"), RoomName("chat", "nest")
LEASE = 0.1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    with closing(Poller(asyncio.get_running_loop())) as poller:
        yield poller


class KnownNodes:
    """A directory, as it answers."""

    def __init__(self, *, alive: list[str], lost: list[str], rooms: dict[RoomName, Owned | Recovering | Free]) -> None:
        self.listing = self
        self.is_up = True
        self.asked: list[RoomName] = []
        self.looks = 0
        self.has_looked = asyncio.Event()
        """Three times."""
        self._rooms = rooms
        self._nodes = [
            (address, seconds) for addresses, seconds in (([*alive, ALIVE], 1.0), (lost, 0.0)) for address in addresses
        ]

    async def nodes(self) -> list[NodeStatus]:
        self.looks += 1
        if self.looks == 3:
            self.has_looked.set()
        if not self.is_up:
            raise EngineUnavailableError("away")
        return [
            NodeStatus(address=NodeAddress(address, "inc", address), version="1", load=Load(), owned=1, seconds_left=left)
            for address, left in self._nodes
        ]

    async def find(self, app: str, room: str) -> Owned | Recovering | Free:
        self.asked.append(RoomName(app, room))
        return self._rooms[RoomName(app, room)]


def owned(address: str, fence: int) -> Owned:
    return Owned(NodeAddress(address, "inc", address), fence)


def make_stream(poller: Poller) -> tuple[Stream, socket.socket]:
    ours, theirs = socket.socketpair()
    return open_stream(ours, poller=poller), theirs


async def find_cut(
    directory: KnownNodes, poller: Poller, *passing: tuple[RoomName, Claim], keeps_rooms: bool = False
) -> list[bool]:
    """Which streams are cut after some looks at the directory."""
    streams = HandedStreams(cast(Directory, directory), LEASE, keeps_rooms=keeps_rooms)
    kept = (DEN, Claim(ALIVE, 1))  # so that the directory is asked again
    pairs = [make_stream(poller) for _ in (*passing, kept)]
    for (name, claim), (stream, _) in zip((*passing, kept), pairs, strict=True):
        streams.add(name, claim, stream)
    running = asyncio.create_task(streams.run())
    async with asyncio.timeout(5):
        await directory.has_looked.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    *cut, is_kept_cut = [stream.transport.is_closing() for stream, _ in pairs]
    assert not is_kept_cut
    for stream, theirs in pairs:
        stream.close()
        theirs.close()
    return cut


async def test_streams_to_an_owner_whose_session_has_ended_are_cut_and_no_others(poller: Poller) -> None:
    directory = KnownNodes(alive=[B], lost=[A], rooms={DEN: owned(B, 6), NEST: Free()})

    cut = await find_cut(directory, poller, (DEN, Claim(A, 5)), (NEST, Claim(A, 4)), (DEN, Claim(B, 6)))

    assert cut == [True, True, False]
    assert sorted(directory.asked) == [DEN, NEST]


async def test_a_stream_whose_socket_is_used_without_the_transport_is_cut_too(poller: Poller) -> None:
    directory = KnownNodes(alive=[], lost=[A], rooms={DEN: Free()})
    streams = HandedStreams(cast(Directory, directory), LEASE, keeps_rooms=False)
    stream, theirs = make_stream(poller)
    closed, others = make_stream(poller)
    for each in (stream, closed):
        streams.add(DEN, Claim(A, 5), each)
    closed.to_socket().close()
    relayed = stream.to_socket()
    relayed.setblocking(False)

    running = asyncio.create_task(streams.run())
    async with asyncio.timeout(5):
        assert await asyncio.get_running_loop().sock_recv(relayed, 1) == b""
    running.cancel()

    assert len(streams) == 1
    for sock in (relayed, theirs, others):
        sock.close()


@pytest.mark.parametrize("found", [Recovering(1.0), owned(A, 5)], ids=["recovering", "reported meanwhile"])
async def test_a_room_that_may_still_be_there_keeps_its_clients(poller: Poller, found: Owned | Recovering) -> None:
    directory = KnownNodes(alive=[], lost=[A], rooms={DEN: found})

    assert await find_cut(directory, poller, (DEN, Claim(A, 5))) == [False]


async def test_where_rooms_are_kept_only_those_that_have_another_owner_lose_their_clients(poller: Poller) -> None:
    directory = KnownNodes(alive=[B], lost=[A], rooms={DEN: Free(), NEST: owned(B, 6)})

    cut = await find_cut(directory, poller, (DEN, Claim(A, 5)), (NEST, Claim(A, 4)), keeps_rooms=True)

    assert cut == [False, True]


async def test_without_the_engine_nothing_is_cut(poller: Poller) -> None:
    directory = KnownNodes(alive=[], lost=[A], rooms={DEN: Free()})
    directory.is_up = False

    assert await find_cut(directory, poller, (DEN, Claim(A, 5))) == [False]


async def test_without_streams_the_directory_is_not_asked(poller: Poller) -> None:
    directory = KnownNodes(alive=[], lost=[A], rooms={})
    streams = HandedStreams(cast(Directory, directory), LEASE, keeps_rooms=False)
    stream, theirs = make_stream(poller)
    streams.add(DEN, Claim(A, 5), stream)
    stream.close()
    theirs.close()

    running = asyncio.create_task(streams.run())
    await asyncio.sleep(LEASE)
    running.cancel()

    assert directory.looks == 0
    assert len(streams) == 0
