"""Checks whether another process uses the name of this node, or only its lease has yet to end."""

from typing import Final

from scalesocket.cluster.directory import NameTakenError
from scalesocket.cluster.peer_client import PeerClient, RefusedError
from scalesocket.cluster.ready import PeerError
from scalesocket.cluster.records import Taken
from scalesocket.cluster.requests_of_nodes import Identify, Identity
from scalesocket.node.all_nodes import ask

IDENTIFY_TIMEOUT: Final = 2.0
"""Seconds in which a process that runs answers."""
HINT: Final = "give each process its own cluster.node, or stop the other one"


class NameCheck:
    """Checks the process that has the name, each time that this one could not open a session because of it."""

    def __init__(self, node: str) -> None:
        """`node`: the name."""
        self._node = node
        self._ends: int | None = None
        """The end of its lease, if it did not answer the last time."""

    async def check(self, peers: PeerClient, taken: Taken) -> None:
        """Raise NameTakenError if the other process runs, and is not stopping. A crashed one no longer renews its lease."""
        try:
            found: Identity = await ask(peers, taken.advertise, Identify(), Identity, timeout=IDENTIFY_TIMEOUT)
        except RefusedError as error:
            raise self._error(taken, f"it runs, but refuses to answer: {error}") from error
        except PeerError as error:
            if self._ends not in (None, taken.ends):
                raise self._error(taken, f"it renews its lease, but is not reached: {error}") from error
            self._ends = taken.ends
            return
        self._ends = None
        if found.inc == taken.inc and not found.is_stopping:
            raise self._error(taken, "it answers")

    def _error(self, taken: Taken, why: str) -> NameTakenError:
        return NameTakenError(f"cluster.node: another process is the node {self._node!r}, at {taken.advertise}: {why} ({HINT})")
