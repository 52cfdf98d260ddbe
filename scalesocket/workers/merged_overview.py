"""The overview of all workers, merged by the supervisor."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from scalesocket.overview import Readiness, RoomsSummary, UnavailableError
from scalesocket.status import RoomStatus, SiteStatus, SiteView, WorkerStatus
from scalesocket.workers.link import Handlers, LinkError, LinkLostError
from scalesocket.workers.merge import fold_ended, merge_status, merge_summaries, only_apps
from scalesocket.workers.overview import WORKER_TIMEOUT
from scalesocket.workers.single_flight import SingleFlight
from scalesocket.workers.site_messages import FoundRoom, GetRoom, GetRooms, GetStatus, GetSummaries, LastStatus
from scalesocket.workers.slot import Worker
from scalesocket.workers.workers import Workers

SERVING: Final = "serving"
STARTING: Final = "starting"
SILENT: Final = "silent"

Result = TypeVar("Result")


class Totals:
    """The last status of each worker's process, and the sums of those that have ended, so that no counter ever falls."""

    def __init__(self) -> None:
        self.ended: SiteStatus | None = None
        self._last: dict[int, tuple[int, SiteStatus]] = {}
        """By worker: the number of the process, and its last status."""

    def note(self, index: int, process: int, status: SiteStatus, apps: Collection[str]) -> None:
        """Keep the status of a process, and count its predecessor as ended. `apps`: those of the site."""
        status = only_apps(status, apps)
        last = self._last.get(index)
        if last is not None and last[0] != process:
            self.note_ended(index)
        self._last[index] = process, status

    def note_ended(self, index: int) -> None:
        """Add the totals of a process that has ended, once."""
        if (last := self._last.pop(index, None)) is not None:
            self.ended = fold_ended(self.ended, last[1])

    def keep_only(self, apps: Collection[str]) -> None:
        """Forget the totals of apps that an edit has removed, as a single process does."""
        self.ended = None if self.ended is None else only_apps(self.ended, apps)
        self._last = {index: (process, only_apps(status, apps)) for index, (process, status) in self._last.items()}

    def last_of(self, index: int, process: int) -> SiteStatus | None:
        """Return the last status of a process."""
        last = self._last.get(index)
        return last[1] if last is not None and last[0] == process else None


class MergedOverview:
    """All workers (`Overview`)."""

    def __init__(self, workers: Workers, own: SiteView) -> None:
        """Ask `workers`. `own`: the site of the supervisor, which has no apps, but the state of edits and of the shutdown."""
        self._workers = workers
        self._own = own
        self._totals = Totals()
        self._statuses: SingleFlight[SiteStatus] = SingleFlight()
        self._rooms: SingleFlight[Sequence[RoomStatus]] = SingleFlight()
        self._summaries: SingleFlight[Mapping[str, RoomsSummary]] = SingleFlight()
        workers.on_site.append(lambda site: self._totals.keep_only(site.apps))

    def install(self, worker: Worker, handlers: Handlers) -> None:
        """Keep the totals of a process that ends."""
        process = worker.restarts
        handlers.add(LastStatus, lambda message: self._note(worker, process, message.status))

    async def status(self) -> SiteStatus:
        """Take a snapshot of all apps, rooms and workers, or return one that was just taken."""
        return await self._statuses.ask(None, self.take_status)

    async def take_status(self) -> SiteStatus:
        """Take a snapshot now. A worker that does not answer in time has the numbers of its last answer, and is `silent`."""
        members = self._workers.members
        answers = await asyncio.gather(*map(self._ask_status, members))
        return merge_status(
            replace(self._own.status(), is_starting=self._workers.is_starting),
            tuple(self._workers.site.apps.values()),
            [status for status, _ in answers if status is not None],
            ended=self._totals.ended,
            workers=[describe_worker(worker, *answer) for worker, answer in zip(members, answers, strict=True)],
        )

    async def list_rooms(self, app: str) -> Sequence[RoomStatus]:
        """Return the rooms of an app that can be joined."""

        async def find() -> Sequence[RoomStatus]:
            return [room for rooms in await self._ask_all(GetRooms(app), list[RoomStatus]) for room in rooms]

        return await self._rooms.ask(app, find)

    async def find_room(self, app: str, room: str) -> RoomStatus | None:
        """Return a room that can be joined: asks the worker that owns it. None if that is being replaced."""
        worker = self._workers.members[self._workers.rendezvous.owner_of(app, room)]
        if worker.link is None:
            return None
        try:
            return (await worker.link.call(GetRoom(app, room), FoundRoom, timeout=WORKER_TIMEOUT)).room
        except LinkLostError:
            return None
        except LinkError as error:
            raise UnavailableError(str(error)) from error

    async def summarize(self, apps: Sequence[str], shown: int) -> Mapping[str, RoomsSummary]:
        """Count the rooms of each app."""

        async def find() -> Mapping[str, RoomsSummary]:
            parts = await self._ask_all(GetSummaries(tuple(apps), shown), dict[str, RoomsSummary])
            return merge_summaries(apps, parts, shown)

        return await self._summaries.ask((*apps, shown), find)

    async def find_readiness(self) -> Readiness:
        """Return whether new clients are admitted."""
        state = self._own.reload_state
        return Readiness(
            is_draining=self._own.is_draining,
            generation=state.generation,
            public_error=state.public_error,
            is_starting=self._workers.is_starting,
        )

    async def _ask_status(self, worker: Worker) -> tuple[SiteStatus | None, str]:
        """Return the status of a worker, and its state."""
        process, link = worker.restarts, worker.link
        if link is not None:
            try:
                status = await link.call(GetStatus(), SiteStatus, timeout=WORKER_TIMEOUT)
            except LinkLostError:
                pass
            except LinkError:
                return self._totals.last_of(worker.index, process), SILENT
            else:
                self._note(worker, process, status)
                return status, SERVING
        if worker.restarts == process:  # else there is a status of its successor already
            self._totals.note_ended(worker.index)
        return None, STARTING

    def _note(self, worker: Worker, process: int, status: SiteStatus) -> None:
        self._totals.note(worker.index, process, status, self._workers.site.apps)

    async def _ask_all(self, question: msgspec.Struct, result: type[Result]) -> list[Result]:
        """Return the answers of all workers; one that has just ended has no rooms. Raises UnavailableError."""
        answers = await self._workers.call_all(question, result, timeout=WORKER_TIMEOUT)
        for answer in answers:
            if isinstance(answer, LinkError) and not isinstance(answer, LinkLostError):
                raise UnavailableError(str(answer))
        return [answer for answer in answers if not isinstance(answer, LinkError)]


def describe_worker(worker: Worker, status: SiteStatus | None, state: str) -> WorkerStatus:
    """Return the state of a worker with the numbers of its status."""
    return WorkerStatus(
        index=worker.index,
        pid=worker.pid,
        state=state,
        rooms=0 if status is None else sum(len(app.rooms) for app in status.apps),
        connections=0 if status is None else status.connections,
        restarts=worker.restarts,
        since=worker.since,
    )
