"""Two nodes in the test's process, without a directory: clients connect to the first one, and the second one owns all rooms."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from functools import cache
from pathlib import Path
from typing import Final, NoReturn, cast

import msgspec
import pytest

from scalesocket.cluster.arrivals import InvalidRequestError
from scalesocket.cluster.handed import Handed
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.peers import PeerHandlers, PeerListener
from scalesocket.cluster.preamble import Answer
from scalesocket.cluster.remote import Claim, RemoteNode
from scalesocket.cluster.secured import Contexts, make_contexts
from scalesocket.config.model import Site
from scalesocket.io.poller import Poller
from scalesocket.node.node import NodePassageClient
from scalesocket.placement.facts import Kind
from scalesocket.placement.placement import Here, Place
from scalesocket.placement.stream import Stream as PassageStream
from scalesocket.server.owner import Owner
from scalesocket.server.service import Service, open_service
from tests.placement.kit import ServiceOfWorkers, SharedSpawner
from tests.placement.test_facts import make_facts
from tests.playing import Lane, Playground

SECRET: Final = b"the secret of all nodes"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
both_ways = pytest.mark.parametrize("is_secured", [False, pytest.param(True, marks=needs_openssl)], ids=["plain", "tls"])
FENCE: Final = 7
HANDED: Final = Handed(msgspec.structs.replace(make_facts(), kind=Kind.PAIR), 5)
"""A client that a node hands over."""


@cache
def make_tls(folder: Path) -> Contexts:
    """Make a certificate, for both ends of connections between nodes. Needs openssl."""
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=node"
    certificate, key = folder / "node.pem", folder / "node.key"
    subprocess.run(["openssl", *words.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return make_contexts(certificate, key, certificate)


def address_of(sock: socket.socket) -> str:
    """The address of a socket that listens."""
    return "{}:{}".format(*sock.getsockname())


async def refuse_stream(_: bytes) -> NoReturn:
    """Answer a request for a stream."""
    raise InvalidRequestError


class Node:
    """The listener and the client of one node."""

    def __init__(self, service: Service, sock: socket.socket, tls: Contexts | None) -> None:
        self.service = service
        self.address = address_of(sock)
        self.owner = Owner(service.connections, NodePassageClient)
        self.decision = Answer.TAKEN
        self.handed: list[Handed] = []
        poller, (server, client) = service.connections.poller, tls[:2] if tls else (None, None)
        handlers = PeerHandlers(decide=self.decide, take=self.take, respond=self.respond, open_stream=refuse_stream)
        self.listener = PeerListener(sock, SECRET, handlers, poller=poller, tls=server)
        self.client = PeerClient(SECRET, poller=poller, tls=client)

    def decide(self, handed: Handed) -> Answer:
        return self.decision if handed.fence == FENCE else Answer.NOT_HERE

    def take(self, handed: Handed, fd: int, answer: bytes) -> None:
        self.handed.append(handed)
        self.owner.take(handed.facts, fd, answer)

    async def respond(self, payload: bytes) -> bytes:
        return b"response to " + payload

    def close(self) -> None:
        self.client.close()
        self.listener.close()
        self.owner.close()


class FixedPlacement:
    """Every room is at one node."""

    def __init__(self) -> None:
        self.claims: list[Claim | Here | None] = []
        """What the directory says, the last one forever."""
        self.client: PeerClient | None = None
        self.asked = 0

    def locate(self, app: str, room: str) -> Place:
        assert self.client is not None
        claim = self._next()
        return claim if isinstance(claim, Here) else RemoteNode(self.client, cast(Claim, claim), self._locate_again)

    async def _locate_again(self) -> Claim | Here | None:
        self.asked += 1
        return self._next()

    def _next(self) -> Claim | Here | None:
        return self.claims.pop(0) if len(self.claims) > 1 else self.claims[0]


class Nodes(Playground):
    """A site that is served by two nodes."""

    def __init__(self, nodes: list[Node], placement: FixedPlacement, lane: Lane) -> None:
        self.services = [node.service for node in nodes]
        super().__init__(cast(Service, ServiceOfWorkers(self.services)), lane)
        self.door, self.owner = nodes
        self.placement = placement


@asynccontextmanager
async def open_nodes(site: Site, lane: Lane = "express", tls: Contexts | None = None) -> AsyncIterator[Nodes]:
    """Serve a site until the block ends; then no backend may be left. `tls`: for the connections between nodes."""
    spawner, placement = SharedSpawner(), FixedPlacement()
    spawner.start()
    try:
        async with AsyncExitStack() as stack:
            nodes = []
            for known in (placement, None):
                service = await stack.enter_async_context(open_service(site, spawner=spawner, placement=known))
                sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                nodes.append(stack.enter_context(closing(Node(service, sock, tls))))
            door, owner = nodes
            placement.client, placement.claims = door.client, [Claim(owner.address, FENCE)]
            site_of_nodes = Nodes(nodes, placement, lane)
            try:
                yield site_of_nodes
            finally:
                await site_of_nodes.leave_all()
        assert not spawner.groups, "backends were left behind"
    finally:
        spawner.close()


class Stream:
    """One end of a stream, for a test."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()

    async def read(self, size: int) -> bytes:
        """Read so many bytes; fewer at the end, also if that is a reset."""
        received = b""
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):
                while len(received) < size and (chunk := await self._loop.sock_recv(self.socket, size - len(received))):
                    received += chunk
        return received

    async def write(self, text: bytes) -> None:
        async with asyncio.timeout(10):
            await self._loop.sock_sendall(self.socket, text)


class BareNode:
    """A listener without a site: connections that it takes are `streams`."""

    def __init__(self, poller: Poller, tls: Contexts | None = None) -> None:
        self.streams: list[Stream] = []
        self.handed: list[Handed] = []
        self.requests: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = address_of(self.socket)
        self.decision = Answer.TAKEN
        self.sent: list[SentBlocks] = []
        handlers = PeerHandlers(
            decide=lambda _: self.decision, take=self.take, respond=self.respond, open_stream=self.open_stream
        )
        self.listener = PeerListener(self.socket, SECRET, handlers, poller=poller, tls=tls[0] if tls else None)

    def take(self, handed: Handed, fd: int, answer: bytes) -> None:
        self.handed.append(handed)
        os.write(fd, answer)
        self.streams.append(Stream(fd))

    async def respond(self, payload: bytes) -> bytes:
        self.requests.append(payload)
        if payload == b"wait":
            await asyncio.get_running_loop().create_future()
        if payload == b"fail":
            raise ValueError(payload)
        if payload == b"unknown":
            raise InvalidRequestError(payload)
        return payload[::-1]

    async def open_stream(self, payload: bytes) -> "SentBlocks":
        if payload == b"wait":
            await asyncio.get_running_loop().create_future()
        if payload == b"fail":
            raise ValueError(payload)
        if payload == b"unknown":
            raise InvalidRequestError(payload)
        self.sent.append(SentBlocks(payload))
        return self.sent[-1]

    def close(self) -> None:
        self.listener.close()
        self.socket.close()
        for stream in self.streams:
            stream.socket.close()


class SentBlocks:
    """What a listener sends on a stream (`BlockSource`): the request, and what a test puts in."""

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.blocks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.asked = 0
        self.is_closed = False

    async def read(self) -> bytes | None:
        self.asked += 1
        return await self.blocks.get()

    def close(self) -> None:
        self.is_closed = True


async def hand_over(client: PeerClient, node: BareNode) -> Stream:
    """Hand the client HANDED over, which the other node takes."""
    stream = await client.hand_over(node.address, HANDED, patience=30)
    assert isinstance(stream, PassageStream), stream
    assert not stream.early
    return Stream(stream.to_socket().detach())
