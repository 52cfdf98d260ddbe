"""The site of all workers, as the reloader edits it."""

import asyncio
import pickle
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.control.messages import AffectedKey
from scalesocket.gateway import Gateway
from scalesocket.reload.affected import MAX_USERS, find_affected
from scalesocket.status import ReloadState
from scalesocket.workers.edit_messages import FindAffected, RestartApp
from scalesocket.workers.link import LinkError
from scalesocket.workers.offers import unless_silent
from scalesocket.workers.slot import Worker
from scalesocket.workers.workers import Workers

COUNT_TIMEOUT: Final = 2.0
"""Seconds in which a worker must count what an edit affects; then it is left out of the report."""
RESTART_TIMEOUT: Final = 5.0
"""Seconds in which a worker must begin to restart rooms."""

Result = TypeVar("Result")


class EditedWorkers:
    """A site that several workers serve (`EditedSite`)."""

    def __init__(self, workers: Workers, gateway: Gateway) -> None:
        """`gateway`: the supervisor's own, which has no apps, but the state of edits and of the shutdown."""
        self._workers = workers
        self._gateway = gateway

    @property
    def site(self) -> Site:
        """The site in force."""
        return self._workers.site

    @property
    def reload_state(self) -> ReloadState:
        """The edit in force, and why a newer one was not applied."""
        return self._gateway.reload_state

    @property
    def is_draining(self) -> bool:
        """Whether the server is shutting down."""
        return self._gateway.is_draining

    def apply(self, site: Site) -> None:
        """Note the site for processes that start from now on. The workers get it from `Edits`."""
        self._workers.site = site

    async def find_affected(self, site: Site, plan: Plan) -> tuple[AffectedKey, ...]:
        """List the changes of a plan, with the rooms and clients of all workers that they affect."""
        changes = find_affected(plan, self.site, site, self._gateway.status())
        if not changes:
            return ()
        question = FindAffected(pickle.dumps(site, protocol=pickle.HIGHEST_PROTOCOL))
        answers = await self._ask_all(question, tuple[AffectedKey, ...], COUNT_TIMEOUT)
        return merge_affected(changes, answers)

    async def restart_app(self, name: str) -> int:
        """Restart the rooms of an app in all workers."""
        answers = await self._ask_all(RestartApp(name), int, RESTART_TIMEOUT)
        return sum(answers)

    async def _ask_all(self, question: msgspec.Struct, result: type[Result], timeout: float) -> list[Result]:
        """Return the answers of the workers that answer in time; those that answer no pings are not waited for."""

        async def ask(worker: Worker) -> list[Result]:
            if worker.link is None:
                return []
            try:
                return [await unless_silent(worker, worker.link.call(question, result, timeout=timeout))]
            except LinkError:
                return []

        return [answer for answers in await asyncio.gather(*map(ask, self._workers.members)) for answer in answers]


def merge_affected(changes: Sequence[AffectedKey], counted: Iterable[Sequence[AffectedKey]]) -> tuple[AffectedKey, ...]:
    """Return the changes with the sums of what each worker has counted. One with an older site may lack some of them."""
    found = {change.path: [change] for change in changes}
    for answer in counted:
        for key in answer:
            if key.path in found:
                found[key.path].append(key)
    return tuple(add_counts(change, found[change.path]) for change in changes)


def add_counts(change: AffectedKey, counted: Sequence[AffectedKey]) -> AffectedKey:
    """Return a change with the sums of these counts."""
    users = sorted({user for key in counted for user in key.kept_out_users})
    return msgspec.structs.replace(
        change,
        rooms=sum(key.rooms for key in counted),
        clients=sum(key.clients for key in counted),
        kept_out=sum(key.kept_out for key in counted),
        kept_out_users=tuple(users[:MAX_USERS]),
    )
