"""What pages and the API of any node show: the rooms of all nodes, by the summaries that each publishes in the directory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from scalesocket.cluster.claims import Claims
from scalesocket.cluster.directory import Directory
from scalesocket.cluster.lease import Lease
from scalesocket.cluster.link import EngineError
from scalesocket.cluster.records import ClusterRoom, RoomName, Summary
from scalesocket.cluster.requests import TIMEOUT
from scalesocket.overview import LocalOverview, Readiness, RoomsSummary, find_fullest
from scalesocket.rooms.room import Room
from scalesocket.status import Counts, RoomStatus, SiteStatus
from scalesocket.workers.merge import merge_summaries
from scalesocket.workers.single_flight import SingleFlight

log = structlog.get_logger("cluster")

PUBLISH_INTERVAL: Final = 0.6
"""Seconds between two publications of what has changed."""
LIST_LIFETIME: Final = 0.2
"""Seconds for which a list of the rooms of other nodes is used again. With the above, it is never a second old."""
JOINABLE: Final = frozenset({"starting", "open", "lingering"})
"""States of rooms that the lobby shows."""
COMPARED_PER_SLICE: Final = 200
"""Rooms that are looked at in one event-loop iteration."""


class Publisher:
    """Publishes the rooms of this node in the directory: what has changed, once in an interval."""

    def __init__(self, directory: Directory, claims: Claims) -> None:
        """Publish the rooms that this node has claimed."""
        self._directory = directory
        self._claims = claims
        self._published: dict[RoomName, Summary] = {}
        self._session: object = None

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL)
            session = self._directory.session
            if session is None:
                continue
            if session != self._session:  # the engine has lost what was published, or has never had it
                self._session, self._published = session, {}
            try:
                current = {summary.name: summary async for summary in self._summarize()}
                changed = [summary for name, summary in current.items() if self._published.get(name) != summary]
                if changed:
                    await self._directory.listing.publish(session.inc, changed)
                self._published = current
            except EngineError:
                continue  # with the next change, or with a new session
            except Exception:
                log.exception("publishing rooms failed")

    async def _summarize(self) -> AsyncIterator[Summary]:
        for number, (room, fence) in enumerate(self._claims.open_rooms(), 1):
            yield summarize(room, fence)
            if number % COMPARED_PER_SLICE == 0:
                await asyncio.sleep(0)


def summarize(room: Room, fence: int) -> Summary:
    """Return what the lobby shows of a room."""
    status = room.status()
    name = RoomName(room.app.name, room.name)
    return Summary(name=name, fence=fence, state=status.state, players=status.connections, metadata=status.metadata)


class ClusterOverview:
    """The rooms of all nodes (`Overview`). Counts, metrics and probes are of this node alone: each node is scraped."""

    def __init__(self, local: LocalOverview, directory: Directory, lease: Lease) -> None:
        """Show `local`, and the rooms of other nodes in `directory`. `lease`: of this node."""
        self._local = local
        self._lease = lease
        self._directory = directory
        self._lists: SingleFlight[Mapping[str, ClusterRoom]] = SingleFlight(LIST_LIFETIME)
        self._last: dict[str, Mapping[str, ClusterRoom]] = {}
        """The last list of each app, by name, for when the engine does not answer."""
        self.describe: Callable[[SiteStatus], SiteStatus] = lambda status: status
        """Adds to a status what this node is in the cluster."""

    async def status(self) -> SiteStatus:
        """Take a snapshot of this node."""
        return self.describe(await self._local.status())

    async def list_rooms(self, app: str) -> Sequence[RoomStatus]:
        """Return the rooms of an app that can be joined, on any node."""
        own = await self._local.list_rooms(app)
        names = {room.name for room in own}
        return [*own, *(describe(room) for name, room in (await self._others(app)).items() if name not in names)]

    async def find_room(self, app: str, room: str) -> RoomStatus | None:
        """Return a room that can be joined, on any node."""
        own = await self._local.find_room(app, room)
        if own is not None:
            return own
        other = (await self._others(app)).get(room)
        return None if other is None else describe(other)

    async def summarize(self, apps: Sequence[str], shown: int) -> Mapping[str, RoomsSummary]:
        """Count the rooms of each app on all nodes."""
        own = await self._local.summarize(apps, shown)
        others = await asyncio.gather(*map(self._others, apps))  # without the engine, each takes until TIMEOUT
        counted = {app: count_rooms(rooms.values(), shown) for app, rooms in zip(apps, others, strict=True)}
        return merge_summaries(apps, [own, counted], shown)

    async def find_readiness(self) -> Readiness:
        """Return whether this node admits new clients, to any room.

        Without the engine it has no room but its own, which end with the lease: other nodes may do better. With rooms that stay
        (`on_engine_loss = "keep"`), it remains ready.
        """
        own, lease = await self._local.find_readiness(), self._lease
        return replace(own, engine="down" if lease.is_late else "up", needs_engine=not lease.keeps_rooms)

    async def _others(self, app: str) -> Mapping[str, ClusterRoom]:
        """Return the rooms of other nodes by name, as they were last known."""

        async def find() -> Mapping[str, ClusterRoom]:
            try:
                async with asyncio.timeout(TIMEOUT):
                    rooms = await self._directory.listing.rooms(app)
            except (EngineError, TimeoutError):
                return self._last.get(app, {})
            others = (room for room in rooms if room.node != self._directory.node and room.state in JOINABLE)
            self._last[app] = {room.name.room: room for room in others}
            return self._last[app]

        return await self._lists.ask(app, find)


def count_rooms(rooms: Iterable[ClusterRoom], shown: int) -> RoomsSummary:
    """Count rooms and their clients."""
    known = [(room.name.room, room.players) for room in rooms]
    return RoomsSummary(number=len(known), clients=sum(players for _, players in known), shown=find_fullest(known, shown))


def describe(room: ClusterRoom) -> RoomStatus:
    """Return a room of another node as pages show it. Its process and its counts are known there."""
    return RoomStatus(
        name=room.name.room, state=room.state, pid=None, connections=room.players, metadata=room.metadata, counts=Counts()
    )
