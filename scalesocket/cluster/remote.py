"""The node that owns a room, as the owner to which connections are handed over."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from scalesocket.cluster.attempt import SILENCE, Attempt
from scalesocket.cluster.handed import Handed
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.preamble import Answer
from scalesocket.placement.facts import Facts
from scalesocket.placement.placement import Here, RemoteOwner
from scalesocket.placement.stream import Stream

MAX_TRIES: Final = 4
"""Nodes that are asked to take one connection: the owner that was known, and three that the directory names after that."""
MOVED: Final = frozenset({Answer.NOT_HERE, Answer.DRAINING, Answer.UNREACHABLE})
"""Answers after which the directory is asked again."""


class Claim(NamedTuple):
    """Which node owns a room, as the directory says."""

    address: str
    """Where it listens for other nodes, `host:port`."""
    fence: int


Locate = Callable[[], Awaitable[Claim | Here | None]]
Note = Callable[[Claim, Stream | None], None]


class RemoteNode(RemoteOwner):
    """Hands a connection over to the node that has a room, and follows the room when it has moved."""

    def __init__(self, client: PeerClient, claim: Claim, locate_again: Locate, note: Note | None = None) -> None:
        """`locate_again` asks the directory, and may wait for a new owner; None: there is none for now.

        `note` gets the stream to an owner that has taken the client, and None for one that has not.
        """
        self._client = client
        self._claim = claim
        self._locate_again = locate_again
        self._note = note
        self._begun: Attempt | None = None

    def begin(self, facts: Facts, *, patience: float, done: Callable[[Stream | None], None]) -> Attempt | None:
        """Begin without waiting (`RemoteOwner.begin`)."""
        claim = self._claim
        self._done = done
        self._begun = self._client.begin(claim.address, Handed.now(facts, claim.fence), patience=patience, done=self._end)
        return self._begun

    def _end(self, stream: Stream | None) -> None:
        if stream is not None:
            assert self._begun is not None
            self._client.count_taken(self._begun)
            self._begun = None
            if self._note is not None:
                self._note(self._claim, stream)
        self._done(stream)

    async def connect(self, facts: Facts, *, patience: float) -> Stream | Here | None:
        """Let the owner serve a client (`RemoteOwner.connect`)."""
        claim = self._claim
        for tries_left in reversed(range(MAX_TRIES)):
            found = await self._hand_over(claim, facts, patience)
            if self._note is not None:
                self._note(claim, found if isinstance(found, Stream) else None)
            if isinstance(found, Answer):
                if found not in MOVED or not tries_left:
                    break
                found = await self._locate_again()
            if not isinstance(found, Claim):
                return found
            claim = found
        return None

    async def _hand_over(self, claim: Claim, facts: Facts, patience: float) -> Stream | Answer | Claim | Here | None:
        """Ask an owner. Return its answer, or where the room is if it moves while the owner is silent."""
        begun, self._begun = self._begun, None
        relocation = Relocation(claim, self._locate_again, after=SILENCE if begun is None else 0.0)
        try:
            async with asyncio.timeout(None) as relocation.scope:
                handed = Handed.now(facts, claim.fence)
                return await self._client.hand_over(claim.address, handed, patience=patience, begun=begun)
        except TimeoutError:
            self._client.note_silent(claim.address)
            return relocation.found
        finally:
            relocation.end()


class Relocation:
    """Looks for another owner of a room while the one that is known does not answer: it may be stopped, or cut off."""

    scope: asyncio.Timeout
    """Ended when there is another owner."""

    def __init__(self, claim: Claim, locate_again: Locate, *, after: float = SILENCE) -> None:
        """Begin when `claim` has been silent for `after` seconds."""
        self.found: Claim | Here | None = None
        """The other owner."""
        self._claim = claim
        self._locate_again = locate_again
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(after, self._begin)
        self._task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run(), name="find another owner of a room")

    async def _run(self) -> None:
        found = await self._locate_again()
        if found not in (None, self._claim):
            self.found = found
            self.scope.reschedule(self._loop.time())
