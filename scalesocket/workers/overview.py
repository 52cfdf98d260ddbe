"""What pages, API, probes and metrics show of all workers: asked for over the links.

A worker asks the supervisor, and the supervisor all workers; for one room, only the worker that owns it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from scalesocket.overview import Overview, Readiness, RoomsSummary, UnavailableError
from scalesocket.placement.placement import HERE, WorkerPlacement
from scalesocket.status import RoomStatus, SiteStatus
from scalesocket.workers.link import Handlers, Link, LinkError
from scalesocket.workers.single_flight import SingleFlight
from scalesocket.workers.site_messages import FoundRoom, GetReadiness, GetRoom, GetRooms, GetStatus, GetSummaries

WORKER_TIMEOUT: Final = 2.0
"""Seconds for the answer of a worker to the supervisor."""
SUPERVISOR_TIMEOUT: Final = 5.0
"""Seconds for the answer of the supervisor to a worker. Longer than the other, because it asks all workers."""

MAX_SOUGHT: Final = 256
"""Rooms that a worker may ask about at the same time. Other requests and tickets need the link, too."""

Result = TypeVar("Result")


class LinkedOverview:
    """The overview at the other end of a link (`Overview`)."""

    def __init__(self, link: Link, *, timeout: float) -> None:
        """Ask the peer of `link`, which must answer within `timeout` seconds."""
        self._link = link
        self._timeout = timeout
        self._sought = 0
        """Questions for a room that have no answer yet: clients choose how many there are."""

    async def status(self) -> SiteStatus:
        """Take a snapshot of all apps and rooms."""
        return await self._ask(GetStatus(), SiteStatus)

    async def list_rooms(self, app: str) -> Sequence[RoomStatus]:
        """Return the rooms of an app that can be joined."""
        return await self._ask(GetRooms(app), list[RoomStatus])

    async def find_room(self, app: str, room: str) -> RoomStatus | None:
        """Return a room that can be joined."""
        if self._sought >= MAX_SOUGHT:
            raise UnavailableError(f"{self._link.peer} is busy: {MAX_SOUGHT} lookups of rooms wait for answers")
        self._sought += 1
        try:
            return (await self._ask(GetRoom(app, room), FoundRoom)).room
        finally:
            self._sought -= 1

    async def summarize(self, apps: Sequence[str], shown: int) -> Mapping[str, RoomsSummary]:
        """Count the rooms of each app."""
        return await self._ask(GetSummaries(tuple(apps), shown), dict[str, RoomsSummary])

    async def find_readiness(self) -> Readiness:
        """Return whether new clients are admitted."""
        return await self._ask(GetReadiness(), Readiness)

    async def _ask(self, question: msgspec.Struct, result: type[Result]) -> Result:
        try:
            return await self._link.call(question, result, timeout=self._timeout)
        except LinkError as error:
            raise UnavailableError(str(error)) from error


def serve_overview(handlers: Handlers, overview: Overview) -> None:
    """Answer the questions of a `LinkedOverview` at the other end."""

    async def find_room(message: GetRoom) -> FoundRoom:
        return FoundRoom(await overview.find_room(message.app, message.room))

    handlers.add(GetStatus, lambda _: overview.status())
    handlers.add(GetRooms, lambda message: overview.list_rooms(message.app))
    handlers.add(GetRoom, find_room)
    handlers.add(GetSummaries, lambda message: overview.summarize(message.apps, message.shown))
    handlers.add(GetReadiness, lambda _: overview.find_readiness())


class WorkerOverview:
    """The whole site, as a worker sees it (`Overview`). It asks the supervisor for each thing at most 20 times in a second."""

    def __init__(self, local: Overview, others: Overview, placement: WorkerPlacement) -> None:
        """Find rooms that live here in `local`, and everything else in `others`, which asks the supervisor."""
        self._local = local
        self._others = others
        self._placement = placement
        self._statuses: SingleFlight[SiteStatus] = SingleFlight()
        self._rooms: SingleFlight[Sequence[RoomStatus]] = SingleFlight()
        self._found: SingleFlight[RoomStatus | None] = SingleFlight()
        self._summaries: SingleFlight[Mapping[str, RoomsSummary]] = SingleFlight()
        self._readiness: SingleFlight[Readiness] = SingleFlight()

    async def status(self) -> SiteStatus:
        """Take a snapshot of all apps and rooms."""
        return await self._statuses.ask(None, self._others.status)

    async def list_rooms(self, app: str) -> Sequence[RoomStatus]:
        """Return the rooms of an app that can be joined."""
        return await self._rooms.ask(app, lambda: self._others.list_rooms(app))

    async def find_room(self, app: str, room: str) -> RoomStatus | None:
        """Return a room that can be joined."""
        if self._placement.locate(app, room) is HERE:
            return await self._local.find_room(app, room)
        return await self._found.ask((app, room), lambda: self._others.find_room(app, room))

    async def summarize(self, apps: Sequence[str], shown: int) -> Mapping[str, RoomsSummary]:
        """Count the rooms of each app."""
        return await self._summaries.ask((*apps, shown), lambda: self._others.summarize(apps, shown))

    async def find_readiness(self) -> Readiness:
        """Return whether new clients are admitted: neither while this worker drains alone, nor while the server does."""
        here = await self._local.find_readiness()
        if here.is_draining:
            return here
        return await self._readiness.ask(None, self._others.find_readiness)
