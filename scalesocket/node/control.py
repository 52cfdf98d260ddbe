"""Operations on the nodes of the cluster (`operations.running.Clustered`)."""

import asyncio
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from scalesocket.cluster.link import EngineError
from scalesocket.cluster.peer_client import PeerClient, RefusedError
from scalesocket.cluster.ready import PeerError
from scalesocket.cluster.records import NodeStatus
from scalesocket.cluster.requests_of_nodes import DrainNode, Identify, Identity
from scalesocket.control.messages import Outcome
from scalesocket.gateway import Gateway
from scalesocket.node.all_nodes import ask
from scalesocket.node.node import Node
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.status import Forgotten, NodeEntry, SiteStatus
from scalesocket.workers.site_messages import Ran

ALIVE_TIMEOUT: Final = 2.0
"""Seconds in which a node that runs answers."""
MAX_ASKED: Final = 32
"""Nodes that are asked at the same time whether they answer."""


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
        """List the nodes by name, and ask each whether it answers."""
        asking = asyncio.Semaphore(MAX_ASKED)

        async def describe(node: NodeStatus) -> NodeEntry:
            async with asking:
                return self._describe(node, None if self._is_here(node) else await self._find_problem(node))

        return await asyncio.gather(*map(describe, await self._list()))

    async def find_others(self) -> Sequence[NodeStatus]:
        """Return the other nodes that have a lease. Raises EngineError."""
        nodes = await self._node.directory.listing.nodes()
        return [node for node in nodes if node.is_alive and node.address.node != self._node.name]

    async def drain_node(self, node: str) -> Outcome:
        """Close the rooms of a node, and let it open none until it is started again.

        The node is the process that has the name in the directory, which need not be this one although it has the same name.
        """
        if node == self._node.name and self._node.lease.is_valid:  # no other process has the name then
            return self._node.drain()
        found = await self._find(node)
        if not found.is_alive:
            raise OperationError(f"the node {node!r} has lost its lease, and has no rooms")
        address = found.address.advertise
        try:
            request = DrainNode(node, found.address.inc, f"node {self._node.name}")
            ran: Ran = await ask(self._peers, address, request, Ran)
        except PeerError as error:
            raise OperationError(f"the node {node!r} is not reached: {error}") from error
        if not ran.is_done:
            raise OperationError(f"the node {node!r} is not drained: {ran.error}")
        return msgspec.msgpack.decode(ran.result, type=Outcome)

    async def forget_node(self, node: str) -> Forgotten:
        """End the lease of a node that is dead. One that answers is not."""
        found = await self._find(node)
        if self._is_here(found) or await self._runs(found):
            raise OperationError(f"the node {node!r} runs: it answers (to close its rooms: scalesocket cluster drain {node})")
        try:
            left = await self._node.directory.listing.forget(node)
        except EngineError as error:
            raise OperationError(f"the engine does not answer: {error}") from error
        return Forgotten(lease=round(left or 0.0, 3))

    async def _runs(self, node: NodeStatus) -> bool:
        """Return whether a node answers, if only to refuse: it is busy, or has another secret or version."""
        try:
            await self._identify(node)
        except RefusedError:
            return True
        except PeerError:
            return False
        return True

    async def _find_problem(self, node: NodeStatus) -> str | None:
        """Return why a node does not answer; None if it does."""
        try:
            await self._identify(node)
        except PeerError as error:
            return str(error)
        return None

    async def _identify(self, node: NodeStatus) -> None:
        """Raise PeerError if a node does not answer, or if another one is at its address."""
        address = node.address.advertise
        found: Identity = await ask(self._peers, address, Identify(), Identity, timeout=ALIVE_TIMEOUT)
        if found.node != node.address.node:
            raise PeerError(f"{address}: the node {found.node!r} listens there")
        if not found.inc:
            raise PeerError(f"{address}: another process with this name listens there, and waits for the end of the lease")

    def _is_here(self, node: NodeStatus) -> bool:
        """Return whether a node of the directory is this process; another one may have its name."""
        session = self._node.directory.session
        return session is not None and node.address.inc == session.inc

    async def _list(self) -> Sequence[NodeStatus]:
        try:
            return await self._node.directory.listing.nodes()
        except EngineError as error:
            hint = "scalesocket status shows this node and its lease"
            raise OperationError(f"the engine does not answer: {error} ({hint})") from error

    async def _find(self, name: str) -> NodeStatus:
        nodes = {node.address.node: node for node in await self._list()}
        if name not in nodes:
            near = next(iter(get_close_matches(name, nodes, n=1)), None)
            others = f" (one of: {', '.join(nodes)})" if near is None else ""
            raise NotFoundError(f"there is no node {name!r}{others}", word=name, near=near)
        return nodes[name]

    def _describe(self, node: NodeStatus, problem: str | None) -> NodeEntry:
        state = "lost" if not node.is_alive else "draining" if node.load.is_draining else "serving"
        return NodeEntry(
            node=node.address.node,
            address=node.address.advertise,
            version=node.version,
            state=state,
            rooms=node.owned,
            clients=node.load.clients,
            lease=round(max(0.0, node.seconds_left), 3),
            last_seen=round(node.last_seen, 3),
            is_here=self._is_here(node),
            answers=problem is None,
            problem=problem,
        )
