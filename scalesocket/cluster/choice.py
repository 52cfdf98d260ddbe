"""Which node a new room opens on: this one, or, with `placement = "least"` and on a drained node, the less busy of two."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import msgspec

from scalesocket.cluster.claims import Claims
from scalesocket.cluster.directory import Directory
from scalesocket.cluster.link import EngineError
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.ready import PeerError
from scalesocket.cluster.records import Load, NodeStatus, Owned, Recovering, RoomName
from scalesocket.cluster.remote import Claim
from scalesocket.cluster.requests_of_nodes import Claimed, ClaimRoom, decode_claimed, encode
from scalesocket.cluster.sparse_log import SparseLog
from scalesocket.placement.placement import Here

FRESH: Final = 1.0
"""Seconds for which the list of nodes is used again."""
CLAIM_TIMEOUT: Final = 4.0
"""Seconds for another node to claim a room."""
_RNG: Final = Random()


class Choice:
    """Finds the owner of a room, or lets one node claim it."""

    def __init__(self, directory: Directory, claims: Claims, *, is_least: bool, load: Callable[[], Load]) -> None:
        """`is_least`: spread new rooms over the nodes. `load`: that of this node."""
        self.client: PeerClient | None = None
        """Asks other nodes to claim a room."""
        self.is_drained = False
        """Whether this node takes no new rooms, because an operator drains it."""
        self._directory = directory
        self._claims = claims
        self._is_least = is_least
        self._load = load
        self._log = SparseLog()
        self._nodes: Sequence[NodeStatus] = ()
        self._listed_at = float("-inf")

    async def ask(self, name: RoomName) -> Here | Claim | None:
        """Return the owner of a room, and claim it if there is none. None: ask again later."""
        if not (self._is_least or self.is_drained) or self._claims.has(name):
            return await self._claims.claim(name)
        try:
            found = await self._directory.find(*name)
            if isinstance(found, Recovering):
                return None
            if isinstance(found, Owned) and found.owner.node != self._directory.node:
                return Claim(found.owner.advertise, found.fence)
            nodes = [] if isinstance(found, Owned) else list(await self._list())
        except EngineError:
            return None
        while (node := self._choose(nodes)) is not None:
            claimed = await self._let_claim(node, name)
            if claimed is None:
                return None
            if claimed.address:
                return Claim(claimed.address, claimed.fence)
            nodes.remove(node)
        return None if self.is_drained else await self._claims.claim(name)

    async def _list(self) -> Sequence[NodeStatus]:
        now = asyncio.get_running_loop().time()
        if now - self._listed_at >= FRESH:
            self._nodes = await self._directory.listing.nodes()
            self._listed_at = now
        return self._nodes

    def _choose(self, nodes: Sequence[NodeStatus]) -> NodeStatus | None:
        """Choose the less busy of two nodes; None: this one."""
        own = self._directory.node
        others = [node for node in nodes if node.is_alive and not node.load.is_draining and node.address.node != own]
        if self.is_drained:
            return min(_RNG.sample(others, min(2, len(others))), key=lambda node: _busy(node.load), default=None)
        candidates = [None, *others]
        drawn = _RNG.sample(candidates, min(2, len(candidates)))
        return min(drawn, key=lambda node: _busy(self._load() if node is None else node.load))

    async def _let_claim(self, node: NodeStatus, name: RoomName) -> Claimed | None:
        """Ask a node to claim a room. Its answer has no address if it does not; None: there is no answer."""
        if self.client is None:
            return None
        request = encode(ClaimRoom(name.app, name.room))
        try:
            return decode_claimed(await self.client.request(node.address.advertise, request, timeout=CLAIM_TIMEOUT))
        except (PeerError, msgspec.DecodeError) as error:
            self._log.warn("node did not claim a room", node.address.node, node=node.address.node, error=str(error))
            self._nodes = [other for other in self._nodes if other is not node]
            return None


def _busy(load: Load) -> tuple[int, int]:
    return load.clients + load.rooms, load.rooms
