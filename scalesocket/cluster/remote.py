"""The node that owns a room, as the owner to which connections are handed over."""

import socket
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from scalesocket.cluster.handed import Handed
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.preamble import Answer
from scalesocket.placement.facts import Facts
from scalesocket.placement.placement import Here, RemoteOwner

MAX_TRIES: Final = 4
"""Nodes that are asked to take one connection: the owner that was known, and three that the directory names after that."""
MOVED: Final = frozenset({Answer.NOT_HERE, Answer.DRAINING, Answer.UNREACHABLE})
"""Answers after which the directory is asked again."""


class Claim(NamedTuple):
    """Which node owns a room, as the directory says."""

    address: str
    """Where it listens for other nodes, `host:port`."""
    fence: int


class RemoteNode(RemoteOwner):
    """Hands a connection over to the node that has a room, and follows the room when it has moved."""

    def __init__(self, client: PeerClient, claim: Claim, locate_again: Callable[[], Awaitable[Claim | Here | None]]) -> None:
        """`locate_again` asks the directory, and may wait for a new owner; None: there is none for now."""
        self._client = client
        self._claim = claim
        self._locate_again = locate_again

    async def connect(self, facts: Facts, *, patience: float) -> socket.socket | Here | None:
        """Let the owner serve a client (`RemoteOwner.connect`)."""
        claim = self._claim
        for tries_left in reversed(range(MAX_TRIES)):
            answer = await self._client.hand_over(claim.address, Handed(facts, claim.fence), patience=patience)
            if isinstance(answer, socket.socket):
                return answer
            if answer not in MOVED or not tries_left:
                break
            located = await self._locate_again()
            if not isinstance(located, Claim):
                return located
            claim = located
        return None
