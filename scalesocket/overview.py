"""What pages, API, probes and metrics show of the whole site. In a server of one process that is what this process has.

A worker sees the rooms of all workers by `workers/overview.py`, a node those of all nodes by `node/lobby.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import Final, Literal, Protocol

from scalesocket.errors import ScalesocketError
from scalesocket.status import PoolView, RoomStatus, SiteStatus, SiteView

COMPARED: Final = 500
"""Rooms of an app that a summary compares. A bound, because pages are public and an app may have very many rooms."""


class UnavailableError(ScalesocketError):
    """The state of the site cannot be known at the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsSummary:
    """The open rooms of an app."""

    number: int
    clients: int
    shown: tuple[tuple[str, int], ...]
    """Names with their numbers of clients, those with the most first; not all of them if there are many."""


NO_ROOMS: Final = RoomsSummary(number=0, clients=0, shown=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether new clients are admitted, and by which site."""

    is_draining: bool
    generation: int
    public_error: str | None
    """Why the newest edit was not applied, for everybody."""
    is_starting: bool = False
    """Whether clients cannot join every room yet, because workers start."""
    engine: Literal["up", "down"] | None = None
    """Whether this node of a cluster renews its lease in time; None without `[cluster]`."""
    needs_engine: bool = True
    """Whether clients should use another node while the engine is down."""

    @property
    def status(self) -> Literal["ready", "draining", "starting", "no_engine"]:
        """In one word."""
        if self.is_draining:
            return "draining"
        if self.is_starting:
            return "starting"
        return "no_engine" if self.engine == "down" and self.needs_engine else "ready"


class Overview(Protocol):
    """The whole site. Each question raises UnavailableError if it cannot be answered."""

    async def status(self) -> SiteStatus:
        """Take a snapshot of all apps and rooms."""

    async def list_rooms(self, app: str) -> Sequence[RoomStatus]:
        """Return the rooms of an app that can be joined; none for an unknown app."""

    async def find_room(self, app: str, room: str) -> RoomStatus | None:
        """Return a room that can be joined; None if there is none of that name."""

    async def summarize(self, apps: Sequence[str], shown: int) -> Mapping[str, RoomsSummary]:
        """Count the rooms of each app, and return the `shown` fullest of them."""

    async def find_readiness(self) -> Readiness:
        """Return whether new clients are admitted. Takes no snapshot: probes are public, and polled."""


class LocalOverview:
    """A site whose rooms are all in this process (`Overview`)."""

    def __init__(self, running: SiteView) -> None:
        """Show `running`."""
        self._running = running

    async def status(self) -> SiteStatus:
        """Take a snapshot of all apps and rooms."""
        return self._running.status()

    async def list_rooms(self, app: str) -> Sequence[RoomStatus]:
        """Return the rooms of an app that can be joined."""
        pool = self._running.pools.get(app)
        return [] if pool is None else [room.status() for room in pool.rooms.values()]

    async def find_room(self, app: str, room: str) -> RoomStatus | None:
        """Return a room that can be joined."""
        pool = self._running.pools.get(app)
        found = None if pool is None else pool.rooms.get(room)
        return None if found is None else found.status()

    async def summarize(self, apps: Sequence[str], shown: int) -> Mapping[str, RoomsSummary]:
        """Count the rooms of each app."""
        pools = self._running.pools
        return {app: summarize_pool(pools[app], shown) if app in pools else NO_ROOMS for app in apps}

    async def find_readiness(self) -> Readiness:
        """Return whether new clients are admitted."""
        state = self._running.reload_state
        return Readiness(is_draining=self._running.is_draining, generation=state.generation, public_error=state.public_error)


def summarize_pool(pool: PoolView, shown: int) -> RoomsSummary:
    """Count the rooms of one pool."""
    some = ((name, len(room.clients)) for name, room in islice(pool.rooms.items(), COMPARED))
    return RoomsSummary(number=len(pool.rooms), clients=pool.connections, shown=find_fullest(some, shown))


def find_fullest(rooms: Iterable[tuple[str, int]], shown: int) -> tuple[tuple[str, int], ...]:
    """Return the `shown` rooms with the most clients, by name where they have as many."""
    return tuple(nsmallest(shown, rooms, key=lambda room: (-room[1], room[0])))
