"""One node: opens and closes what `[cluster]` needs, in an order in which no room runs without a lease."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from typing import Final

import structlog

from scalesocket import __version__
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.cleanup import logged_faults
from scalesocket.cluster.choice import Choice
from scalesocket.cluster.claims import Claims
from scalesocket.cluster.directory import Directory, LeaseMismatchError, NameTakenError
from scalesocket.cluster.handed import Handed
from scalesocket.cluster.handed_streams import HandedStreams
from scalesocket.cluster.lease import Lease, boottime
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.peers import PeerHandlers, PeerListener
from scalesocket.cluster.placement import PAUSE, ClusterPlacement
from scalesocket.cluster.preamble import Answer
from scalesocket.cluster.records import Load, RoomName, Taken
from scalesocket.config.addresses import Endpoint
from scalesocket.config.model import Cluster, Site
from scalesocket.control.messages import Outcome
from scalesocket.errors import LEASE_LOST, NODE_DRAINED, NODE_STOPS
from scalesocket.gateway import Gateway
from scalesocket.node.certificates import NodeCertificates, load_contexts
from scalesocket.node.lobby import Publisher
from scalesocket.node.name_check import NameCheck
from scalesocket.node.respond import Responder
from scalesocket.node.tickets import ClusterTickets
from scalesocket.reload.preparation import Prepare
from scalesocket.server.addresses import ListenError
from scalesocket.server.owner import Owner, PassageClient
from scalesocket.server.service import Service
from scalesocket.status import OwnNodeStatus, SiteStatus

log = structlog.get_logger("cluster")

BACKLOG: Final = 1024
REFUSALS: Final = (LeaseMismatchError, NameTakenError)
"""Why a node does not start."""
START_TIMEOUT: Final = 5.0
"""Seconds for the first attempt to open a lease, before the server is ready."""
TAKE_TIMEOUT: Final = 5.0
"""Seconds in which a room that ends while a client arrives from another node must be claimed again."""


class NodePassageClient(PassageClient):
    """A client that reached another node."""

    __slots__ = ()

    farewell = NODE_STOPS


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
            on_deadline=self._set_deadline,
            on_lost=self._end_rooms,
            on_taken=self._check_name,
            keeps_rooms=settings.keeps_rooms,
        )
        self.claims = Claims(self.directory, self.lease)
        self.choice = Choice(self.directory, self.claims, is_least=settings.placement == "least", load=self._load)
        self.placement = ClusterPlacement(
            self.claims, self.choice.ask, pause=min(PAUSE, settings.lease / 10), known_for=settings.lease / 5
        )
        self.responder = Responder(self.directory, self.claims, self._takes_rooms, self.drain)
        self._name_check = NameCheck(self.name)
        self.peers: PeerClient | None = None
        """Connects to other nodes."""
        self.listener: PeerListener | None = None
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the node cannot go on."""
        self.prepare: Sequence[Prepare] = ()
        """Loads what an edit needs besides the listeners of clients."""
        self._sock = sock
        self._spawner = spawner
        self._running: asyncio.Task[None] | None = None
        self._has_started = False
        self._arrivals: set[asyncio.Task[None]] = set()

    def attach(self, gateway: Gateway) -> None:
        """Join the node to a running site, before anything listens."""
        self._gateway = gateway
        gateway.admission.authenticators.resources.tickets = ClusterTickets(self.directory.listing)
        self.claims.pools = gateway.pools
        gateway.admission.farewell = NODE_STOPS

    @asynccontextmanager
    async def serve(self, service: Service) -> AsyncIterator[PeerClient]:
        """Open the lease, and exchange clients with other nodes, until the block ends. The lease goes on until `close`."""
        poller = service.connections.poller
        secret = (self.settings.secret or "").strip().encode()
        tls = await load_contexts(self.settings.tls)
        self._owner = Owner(service.connections, NodePassageClient)
        responder = self.responder
        responder.attach(service.operations.running)
        handlers = PeerHandlers(
            decide=self._decide, take=self._take, respond=responder.respond, open_stream=responder.open_stream
        )
        peers = self.peers = PeerClient(secret, poller=poller, tls=tls and tls.caller)
        self.placement.client = self.choice.client = peers
        self._running = asyncio.create_task(self.lease.run(), name="lease")
        self._running.add_done_callback(self._note_end)
        listener = self.listener = PeerListener(self._sock, secret, handlers, poller=poller, tls=tls and tls.listener)
        certificates = NodeCertificates(self.settings.tls, tls, peers, listener)
        self.prepare = (certificates.prepare,)
        publishing = asyncio.create_task(Publisher(self.directory, self.claims).run(), name="publish rooms")
        streams = HandedStreams(self.directory, self.settings.lease, keeps_rooms=self.settings.keeps_rooms)
        self.placement.on_taken = streams.add
        checking = asyncio.create_task(streams.run(), name="check the owners of rooms")
        log.info("listening for nodes", node=self.name, cluster=self.settings.name, address=self.directory.advertise)
        try:
            await self._wait_tried(self._running)
            self._has_started = True
            yield peers
        finally:
            publishing.cancel()
            checking.cancel()
            certificates.close()
            await self.placement.close()
            listener.close()
            peers.close()
            for task in tuple(self._arrivals):
                task.cancel()
            await asyncio.gather(publishing, checking, *self._arrivals, return_exceptions=True)
            self._owner.close()

    def drain(self) -> Outcome:
        """Open no more rooms, and close the open ones gradually, so that other nodes can open them."""
        self.choice.is_drained = True
        self.claims.give_up_all()
        self.directory.doubt.set()  # tells it at once, with a renewal
        rooms = [room for pool in self._gateway.find_all_pools() for room in pool.rooms.values()]
        self._gateway.close_rooms(rooms, NODE_DRAINED)
        return Outcome(rooms=len(rooms), clients=sum(len(room.clients) for room in rooms))

    def describe(self, status: SiteStatus) -> SiteStatus:
        """Add to a status what this node is in the cluster."""
        peers, listener, claims = self.peers, self.listener, self.claims
        own = OwnNodeStatus(
            node=self.name,
            cluster=self.settings.name,
            is_drained=self.choice.is_drained,
            is_engine_up=self.directory.is_up and not self.lease.is_late,
            lease_seconds_left=round(self.lease.seconds_left, 3),
            leases_lost=self.lease.lost,
            owned=self.directory.held,
            held=self.placement.held,
            claims=dict(claims.results),
            claim_seconds=claims.seconds,
            hand_overs={} if peers is None else dict(peers.results),
            hand_over_seconds=0.0 if peers is None else peers.seconds,
            arrivals={} if listener is None else dict(listener.results),
        )
        return replace(status, cluster=own)

    def stop(self) -> None:
        """Take no more rooms, and refuse the clients that wait for one: the server drains."""
        self.placement.stop()
        self.claims.give_up_all()

    async def close(self) -> None:
        """End the session, when all rooms have ended, so that other nodes may have them at once."""
        await self.claims.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        self._spawner.set_deadline(None)
        await self.directory.close()

    # --- The lease

    async def _wait_tried(self, running: "asyncio.Task[None]") -> None:
        """Wait for the first attempt to open a lease. Raises ListenError if this node must not start."""
        trying = asyncio.create_task(self.lease.tried.wait())
        try:
            await asyncio.wait({running, trying}, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            trying.cancel()
        if running.done() and (error := running.exception()) is not None:
            raise ListenError(str(error)) if isinstance(error, REFUSALS) else error

    async def _check_name(self, taken: Taken) -> None:
        if self.peers is not None:
            await self._name_check.check(self.peers, taken)

    def _load(self) -> Load:
        return Load(rooms=self.directory.held, clients=self._gateway.connections, is_draining=not self._takes_rooms())

    def _takes_rooms(self) -> bool:
        return not (self._gateway.is_draining or self.choice.is_drained)

    def _set_deadline(self, boottime: float | None) -> None:
        """Give the spawner a deadline, and what it tells the engine when this process has died, in either mode."""
        last_word = self.directory.last_word()
        self._spawner.set_deadline(boottime, None if last_word is None else asdict(last_word))

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
                log.error("room lost", app=name.app, room=name.room, effect="its clients are closed; another node owns it")
                with logged_faults("ending a room"):
                    room.stop(LEASE_LOST)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            if not self._has_started and isinstance(error, REFUSALS):  # it is raised there
                return
            log.error("node failed, the server stops", error=str(error), exc_info=None if isinstance(error, REFUSALS) else error)
            self.on_failure()

    # --- Other nodes

    def _decide(self, handed: Handed) -> Answer:
        facts = handed.facts
        if not self._takes_rooms() and (self._gateway.is_draining or not self.claims.has(RoomName(facts.app, facts.room))):
            return Answer.DRAINING
        is_known = self.directory.fence_of(facts.app, facts.room) == handed.fence
        is_owner = self.lease.is_valid and (is_known or self.claims.is_claiming(RoomName(facts.app, facts.room)))
        return Answer.TAKEN if is_owner else Answer.NOT_HERE

    def _take(self, handed: Handed, fd: int, answer: bytes) -> None:
        """Let a client join its room. `answer`: what is written first."""
        name = RoomName(handed.facts.app, handed.facts.room)
        if self.claims.has(name):
            self._owner.take(handed.facts, fd, answer)
            return
        with suppress(OSError):  # then the connection is lost
            os.write(fd, answer)
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
        reason = (error.strerror or str(error)).partition(" (while ")[0].lower()  # without the address, which Python adds
        hint = " (is another node running? choose another port)" if error.errno == errno.EADDRINUSE else ""
        raise ListenError(f"cluster.listen: can't listen at {at}: {reason}{hint}") from error
