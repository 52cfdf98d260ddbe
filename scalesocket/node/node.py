"""One node: opens and closes what `[cluster]` needs, in the order in which a room never runs without a lease."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from scalesocket import __version__
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.cleanup import logged_faults
from scalesocket.cluster.choice import Choice
from scalesocket.cluster.claims import Claims
from scalesocket.cluster.directory import Directory, LeaseMismatchError
from scalesocket.cluster.handed import Handed
from scalesocket.cluster.lease import Lease, boottime
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.peers import PeerHandlers, PeerListener
from scalesocket.cluster.placement import PAUSE, ClusterPlacement
from scalesocket.cluster.preamble import Answer
from scalesocket.cluster.records import Load, RoomName
from scalesocket.cluster.requests_of_nodes import Claimed, decode_request, encode
from scalesocket.cluster.secured import make_contexts
from scalesocket.config.addresses import Endpoint
from scalesocket.config.model import Cluster, Site
from scalesocket.errors import LEASE_LOST, NODE_STOPS
from scalesocket.gateway import Gateway
from scalesocket.placement.placement import Here
from scalesocket.server.addresses import ListenError
from scalesocket.server.owner import Owner
from scalesocket.server.service import Service

log = structlog.get_logger("cluster")

BACKLOG: Final = 1024
TAKE_TIMEOUT: Final = 5.0
"""Seconds in which a room that ends while a client arrives from another node must be claimed again."""


class Node:
    """A node of a cluster. `async with open_node(…)` makes one; `attach` and `serve` join it to the running site."""

    _gateway: Gateway
    _owner: Owner

    def __init__(self, settings: Cluster, sock: socket.socket, spawner: SpawnerClient) -> None:
        """Be reached by other nodes at `sock`, which listens. `spawner` gets the deadlines of the lease."""
        port = sock.getsockname()[1]
        at = Endpoint(settings.listen.host, port) if settings.advertise is None else settings.advertise
        self.name = settings.node or socket.gethostname()
        self.settings = settings
        self.directory = Directory(settings, node=self.name, advertise=str(at), version=__version__)
        self.directory.on_room_lost = self._end_room
        self.lease = Lease(
            self.directory,
            settings.lease,
            load=self._load,
            on_deadline=spawner.set_deadline,
            on_lost=self._end_rooms,
            keeps_rooms=settings.keeps_rooms,
        )
        self.claims = Claims(self.directory, self.lease)
        self.choice = Choice(self.directory, self.claims, is_least=settings.placement == "least", load=self._load)
        self.placement = ClusterPlacement(self.claims, self.choice.ask, pause=min(PAUSE, settings.lease / 10))
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the node cannot go on."""
        self._sock = sock
        self._spawner = spawner
        self._running: asyncio.Task[None] | None = None
        self._arrivals: set[asyncio.Task[None]] = set()

    def attach(self, gateway: Gateway) -> None:
        """Join the node to a running site, before anything listens."""
        self._gateway = gateway
        self.claims.pools = gateway.pools
        gateway.farewell = NODE_STOPS

    @asynccontextmanager
    async def serve(self, service: Service) -> AsyncIterator[None]:
        """Open the lease, and exchange clients with other nodes, until the block ends. The lease goes on until `close`."""
        poller = service.connections.poller
        secret = (self.settings.secret or "").strip().encode()
        tls = self.settings.tls
        server, client = (None, None) if tls is None else make_contexts(tls.certificate, tls.key, tls.ca)
        self._owner = Owner(service.connections)
        handlers = PeerHandlers(decide=self._decide, take=self._take, respond=self._respond)
        peers = PeerClient(secret, poller=poller, tls=client)
        self.placement.client = self.choice.client = peers
        self._running = asyncio.create_task(self.lease.run(), name="lease")
        self._running.add_done_callback(self._note_end)
        listener = PeerListener(self._sock, secret, handlers, poller=poller, tls=server)
        log.info("node of a cluster", node=self.name, cluster=self.settings.name, at=self.directory.advertise)
        try:
            yield
        finally:
            await self.placement.close()
            listener.close()
            peers.close()
            for task in tuple(self._arrivals):
                task.cancel()
            await asyncio.gather(*self._arrivals, return_exceptions=True)
            self._owner.close()

    def stop(self) -> None:
        """Take no more rooms and hold nobody any more: the server drains."""
        self.placement.stop()
        self.claims.clear()

    async def close(self) -> None:
        """End the session, when all rooms have ended, so that other nodes may have them at once."""
        await self.claims.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await self.directory.close()

    # --- The lease

    def _load(self) -> Load:
        gateway = self._gateway
        is_draining = gateway.is_draining or self.choice.is_drained
        return Load(rooms=self.directory.held, clients=gateway.connections, is_draining=is_draining)

    async def _end_rooms(self) -> None:
        """The lease is lost: end all rooms, and return when their backends are gone."""
        self.claims.clear()
        if boottime() < self.lease.deadline:  # else the spawner has killed all backends
            self._spawner.set_deadline(boottime())
        self._gateway.end_rooms(LEASE_LOST)
        await self._gateway.wait_ended()

    def _end_room(self, name: RoomName) -> None:
        pool = self._gateway.pools.get(name.app)
        for room in () if pool is None else pool.all_rooms:
            if room.name == name.room:
                log.error("room lost", app=name.app, room=name.room, effect="its clients are closed; another node has it")
                with logged_faults("ending a room"):
                    room.stop(LEASE_LOST)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            is_known = isinstance(error, LeaseMismatchError)
            log.error("node stops", error=str(error), exc_info=None if is_known else error)
            self.on_failure()

    # --- Other nodes

    def _decide(self, handed: Handed) -> Answer:
        facts = handed.facts
        if self._gateway.is_draining:
            return Answer.DRAINING
        is_owner = self.lease.is_valid and self.directory.fence_of(facts.app, facts.room) == handed.fence
        return Answer.TAKEN if is_owner else Answer.NOT_HERE

    def _take(self, handed: Handed, fd: int) -> None:
        name = RoomName(handed.facts.app, handed.facts.room)
        if self.claims.has(name):
            self._owner.take(handed.facts, fd)
            return
        task = asyncio.create_task(self._take_later(name, handed, fd), name="claim the room of an arrival")
        self._arrivals.add(task)
        task.add_done_callback(self._arrivals.discard)

    async def _take_later(self, name: RoomName, handed: Handed, fd: int) -> None:
        """Claim a room again that is ending: the client joins its successor."""
        try:
            await self.placement.find(name, after=None, until=asyncio.get_running_loop().time() + TAKE_TIMEOUT)
        except BaseException:
            os.close(fd)
            raise
        self._owner.take(handed.facts, fd)  # which closes it with 1013, if the room is not here

    async def _respond(self, payload: bytes) -> bytes:
        request = decode_request(payload)
        if self._gateway.is_draining or self.choice.is_drained:
            return encode(Claimed(""))
        found = await self.claims.claim(RoomName(request.app, request.room))
        if isinstance(found, Here):
            fence = self.directory.fence_of(request.app, request.room)
            return encode(Claimed("") if fence is None else Claimed(self.directory.advertise, fence))
        return encode(Claimed("") if found is None else Claimed(found.address, found.fence))


@asynccontextmanager
async def open_node(site: Site, spawner: SpawnerClient) -> AsyncIterator[Node]:
    """Open the node that `[cluster]` describes, around its service. Raises ListenError."""
    settings = site.cluster
    assert settings is not None
    with listen(settings.listen) as sock:
        node = Node(settings, sock, spawner)
        try:
            yield node
        finally:
            await node.close()


def listen(at: Endpoint) -> socket.socket:
    """Listen for other nodes. Raises ListenError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ListenError(f"cluster.listen: can't listen at {at}: {reason}") from error
