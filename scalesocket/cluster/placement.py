"""Where a room lives in a cluster, by the directory. A room that is open here is found without a request."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Final

import structlog

from scalesocket.cluster.claims import Claims
from scalesocket.cluster.known_owners import KnownOwners
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.records import RoomName
from scalesocket.cluster.remote import Claim, RemoteNode
from scalesocket.placement.facts import Facts
from scalesocket.placement.placement import HERE, Here, Place, RemoteOwner
from scalesocket.placement.stream import Stream

log = structlog.get_logger("cluster")

HOLD: Final = 20.0
"""Seconds for which a client waits until its room has an owner."""
SAME_OWNER: Final = 5.0
"""Seconds after which an owner that did not take a client is asked again, if the directory names no other."""
PAUSE: Final = 0.5
"""Seconds between two questions to the directory, at most."""
MAX_ASKING: Final = 256
"""First questions at the same time, and as many further ones. All of them may fail at once, which takes 0.1 ms for each."""
_RNG: Final = Random()

Ask = Callable[[RoomName], Awaitable[Here | Claim | None]]


class ClusterPlacement:
    """Locates rooms (`placement.Placement`), and holds their clients while the directory knows no owner."""

    def __init__(self, claims: Claims, ask: Ask, *, pause: float = PAUSE, hold: float = HOLD, known_for: float = 0.0) -> None:
        """`ask`: claims a room, here or on the node chosen for it. None: there is no owner now, so it is asked again.

        `known_for`: seconds for which an owner that took a client is not asked for again (`KnownOwners`).
        """
        self.client: PeerClient | None = None
        """Hands clients over to other nodes."""
        self.on_taken: Callable[[RoomName, Claim, Stream], None] = lambda *_: None
        """Called for each client that another node has taken."""
        self._claims = claims
        self._ask = ask
        self._pause = pause
        self._hold = hold
        self._closing = asyncio.Event()
        self._first_turns, self._next_turns = asyncio.Semaphore(MAX_ASKING), asyncio.Semaphore(MAX_ASKING)
        """For the first question about a room, and for further ones with the pause before them, so that rooms without an owner
        keep no other room waiting."""
        self._known = KnownOwners(known_for, time.monotonic)
        self._flights: dict[tuple[RoomName, Claim | None], Flight] = {}
        """What is asked now, for all who wait for the same."""

    @property
    def held(self) -> int:
        """Clients that wait for the owner of their room."""
        return sum(flight.waiting for flight in self._flights.values())

    def locate(self, app: str, room: str) -> Place | Awaitable[Place]:
        """Return where a room lives: at once if it is open here, or if its owner took a client a moment ago."""
        claims = self._claims
        if claims.is_open(app, room):
            return HERE
        name = RoomName(app, room)
        if claims.has(name):
            return HERE
        known = self._known.find(name)
        return self._locate(name) if known is None else self._make_place(name, self._begin(name, known), known)

    async def find(self, name: RoomName, *, after: Claim | None, until: float) -> Here | Claim | None:
        """Return the owner of a room; None if there is none `until` that time of the loop.

        `after`: the owner that did not take the client. It is returned again only if there is no other for a while.
        """
        flight = self._flights.get((name, after))
        if flight is None:
            flight = self._flights[name, after] = Flight(until)
            flight.task = asyncio.create_task(self._search(name, after, flight), name="find the owner of a room")
        flight.until = max(flight.until, until)
        flight.waiting += 1
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.shield(flight.task)
        except TimeoutError:
            return None
        finally:
            flight.waiting -= 1

    def stop(self) -> None:
        """Hold no more clients: this node stops. Clients that wait are refused."""
        self._closing.set()

    async def close(self) -> None:
        """Stop, and wait until no client is held."""
        self.stop()
        await asyncio.gather(*(flight.task for flight in self._flights.values()), return_exceptions=True)

    async def _locate(self, name: RoomName) -> Place:
        search = self._begin(name)
        found = await search.next()
        return HERE if isinstance(found, Here) else self._make_place(name, search, found)

    def _begin(self, name: RoomName, last: Claim | None = None) -> "Search":
        return Search(self, name, asyncio.get_running_loop().time() + self._hold, last)

    def _make_place(self, name: RoomName, search: "Search", found: Claim | None) -> Place:
        if found is None or self.client is None:
            return NO_OWNER
        return RemoteNode(self.client, found, search.next, partial(self._note, name))

    def _note(self, name: RoomName, claim: Claim, stream: Stream | None) -> None:
        self._known.note(name, claim, stream is not None)
        if stream is not None:
            self.on_taken(name, claim, stream)

    async def _search(self, name: RoomName, after: Claim | None, flight: "Flight") -> Here | Claim | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            turns = self._first_turns
            while True:
                async with turns:
                    if turns is self._next_turns:
                        await self._rest()
                    if loop.time() >= flight.until or not flight.waiting or self._closing.is_set():
                        return None
                    found = await self._ask(name)
                if found is not None and (found != after or loop.time() - began >= SAME_OWNER):
                    return found
                turns = self._next_turns
        except Exception:
            log.exception("finding the owner of a room failed", app=name.app, room=name.room)
        finally:
            del self._flights[name, after]
        return None

    async def _rest(self) -> None:
        """Wait before the next question; not if this node stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause * _RNG.uniform(0.5, 1.0)):
                await self._closing.wait()


class Flight:
    """One search, and who waits for it."""

    task: "asyncio.Task[Here | Claim | None]"

    def __init__(self, until: float) -> None:
        self.until = until
        """The time of the loop at which the last of them gives up."""
        self.waiting = 0


class Search:
    """The search for the owner of one client's room, which may move meanwhile."""

    def __init__(self, placement: ClusterPlacement, name: RoomName, until: float, last: Claim | None = None) -> None:
        """`last`: the owner that is known already, and asked first."""
        self._placement = placement
        self._name = name
        self._until = until
        self._last = last

    async def next(self) -> Here | Claim | None:
        """Return the owner, or the next one after that could not take the client; None if there is none in time."""
        found = await self._placement.find(self._name, after=self._last, until=self._until)
        if isinstance(found, Claim):
            self._last = found
        return found


class NoOwner(RemoteOwner):
    """Stands for the owner of a room that had none in time."""

    async def connect(self, facts: Facts, *, patience: float) -> Stream | Here | None:
        """Return that no node can take the client."""
        return None


NO_OWNER: Final = NoOwner()
