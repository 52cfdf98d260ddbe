"""Operations on the nodes of the cluster (`operations.running.Clustered`)."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from scalesocket.cluster.link import EngineError
from scalesocket.cluster.peer_client import PeerClient, PeerError, RefusedError
from scalesocket.cluster.records import NodeStatus
from scalesocket.cluster.requests_of_nodes import LetGo, Operate, encode
from scalesocket.control.messages import ClusterDrain, Outcome
from scalesocket.gateway import Gateway
from scalesocket.node.all_nodes import ask
from scalesocket.node.node import Node
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.status import Forgotten, NodeEntry, SiteStatus
from scalesocket.workers.site_messages import Ran

ALIVE_TIMEOUT: Final = 2.0
"""Seconds in which a node that runs answers, before it may be forgotten."""


class NodeControl:
    """The cluster, as an operator of one node sees it."""

    def __init__(self, node: Node, gateway: Gateway, peers: PeerClient) -> None:
        self._node = node
        self._gateway = gateway
        self._peers = peers

    @property
    def node(self) -> str:
        """The name of this node."""
        return self._node.name

    def status(self) -> SiteStatus:
        """Take a snapshot of this node's site."""
        return self._node.describe(self._gateway.status())

    async def list_nodes(self) -> Sequence[NodeEntry]:
        """List the nodes by name."""
        return [self._describe(node) for node in await self._list()]

    async def find_others(self) -> Sequence[NodeStatus]:
        """Return the other nodes that have a lease. Raises EngineError."""
        nodes = await self._node.directory.listing.nodes()
        return [node for node in nodes if node.is_alive and node.address.node != self._node.name]

    async def drain_node(self, node: str) -> Outcome:
        """Close the rooms of a node, and let it open none until it is started again."""
        if node == self._node.name:
            return self._node.drain()
        found = await self._find(node)
        if not found.is_alive:
            raise OperationError(f"the node {node!r} has lost its lease, and with it all rooms")
        try:
            request = Operate(ClusterDrain(node=node), f"node {self._node.name}")
            ran: Ran = await ask(self._peers, found.address.advertise, request, Ran)
        except PeerError as error:
            raise OperationError(f"the node {node!r} is not reached: {error}") from error
        if not ran.is_done:
            raise OperationError(ran.error or f"the node at {found.address.advertise} is not {node!r}")
        return msgspec.msgpack.decode(ran.result, type=Outcome)

    async def forget_node(self, node: str) -> Forgotten:
        """End the lease of a node that is dead. One that answers is not."""
        found = await self._find(node)
        if node == self._node.name or await self._answers(found.address.advertise):
            raise OperationError(f"the node {node!r} runs: it answers (to take its rooms away: scalesocket cluster drain {node})")
        try:
            left = await self._node.directory.listing.forget(node)
        except EngineError as error:
            raise OperationError(f"the engine does not answer: {error}") from error
        return Forgotten(lease=round(left or 0.0, 3))

    async def _answers(self, address: str) -> bool:
        try:
            await self._peers.request(address, encode(LetGo(0)), timeout=ALIVE_TIMEOUT)
        except RefusedError:  # it is busy, or it has another secret or version: it runs
            return True
        except PeerError:
            return False
        return True

    async def _list(self) -> Sequence[NodeStatus]:
        try:
            return await self._node.directory.listing.nodes()
        except EngineError as error:
            raise OperationError(f"the engine does not answer: {error}") from error

    async def _find(self, name: str) -> NodeStatus:
        nodes = {node.address.node: node for node in await self._list()}
        if name not in nodes:
            near = next(iter(get_close_matches(name, nodes, n=1)), None)
            others = f" (one of: {', '.join(nodes)})" if near is None else ""
            raise NotFoundError(f"there is no node {name!r}{others}", word=name, near=near)
        return nodes[name]

    def _describe(self, node: NodeStatus) -> NodeEntry:
        session = self._node.directory.session
        is_here = session is not None and node.address.inc == session.inc  # another process may have the name
        state = "lost" if not node.is_alive else "draining" if node.load.is_draining else "serving"
        return NodeEntry(
            node=node.address.node,
            address=node.address.advertise,
            version=node.version,
            state=state,
            rooms=node.owned,
            clients=node.load.clients,
            lease=round(max(0.0, node.seconds_left), 3),
            is_here=is_here,
        )
