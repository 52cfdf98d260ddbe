"""Edits of a site that several workers serve: prepared in all of them and here, then committed everywhere, or nowhere.

A worker that has no part in an edit, because it starts, ends or is stuck, is brought to the site in force as soon as it answers.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from typing import Final

import structlog
from anyio.abc import TaskGroup

from scalesocket.admission.control import AdmissionControl
from scalesocket.admission.refusals import OWNER_BUSY
from scalesocket.auth.files import AuthFiles
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.errors import ScalesocketError
from scalesocket.server.bind import stop_arrivals
from scalesocket.server.late_connections import close_listener
from scalesocket.server.listen import Change, Listener, Listeners
from scalesocket.workers.drains import repeat_drains
from scalesocket.workers.edit_messages import Edit
from scalesocket.workers.link import Link, LinkError, LinkLostError
from scalesocket.workers.offers import Member, Offer, Offers, commit, is_absent, offering, roll_back, wait_committed
from scalesocket.workers.slot import Worker
from scalesocket.workers.workers import Workers

log = structlog.get_logger("reload")

HANDSHAKE_TIME: Final = 0.05
"""Seconds for handshakes of TCP to end that have begun at an address which an edit removes."""
RETRY: Final = 0.2
"""Seconds until the site in force is offered again to a worker that could not take it."""
FAULT_RETRY: Final = 1.0
"""The same, after a refusal or an unexpected exception."""
MAX_REFUSALS: Final = 10
"""Refusals after which a worker is replaced that has not got the site in force. A lack of file descriptors may pass."""


class EditRefusedError(ScalesocketError):
    """A worker cannot serve the edited site."""


class Edits:
    """What the supervisor does to edit the site of its workers."""

    def __init__(
        self, workers: Workers, admission: AdmissionControl, listeners: Listeners, auth_files: AuthFiles, tasks: TaskGroup
    ) -> None:
        """`admission` counts connections that no worker takes; `tasks` runs what brings workers to the site in force."""
        self.offers = Offers(workers)
        self._admission = admission
        self._workers = workers
        self._listeners = listeners
        self._auth_files = auth_files
        self._tasks = tasks
        self._catching_up: set[Link] = set()
        for worker in workers.members:
            worker.on_ready.append(self.check)

    def close(self) -> None:
        """Send nothing more."""
        self.offers.close()

    async def prepare(self, site: Site, _: Plan) -> "WorkersEdit":
        """Open what an edited site needs, here and in every worker (`Prepare`). Raises ScalesocketError and OSError."""
        contents, warnings = await self._auth_files.prepare(site)
        change = await self._listeners.prepare(site.server)
        try:
            edit = self.offers.make_edit(
                site,
                self._workers.generation + 1,
                pair=None if change.tls is None else change.tls.pair,
                auth_files=contents,
                addresses=tuple(change.listeners),
            )
            with offering(edit, [listener.sock.fileno() for listener in change.listeners.values()]) as offer:
                members = await self._offer_all(offer)
        except BaseException:
            change.roll_back()
            raise
        return WorkersEdit(self, edit, change, members, warnings)

    async def _offer_all(self, offer: Offer) -> Sequence[Member]:
        """Have all workers prepare an edit that have the site in force. Return those that have. Raises EditRefusedError."""
        asked = [
            (worker, worker.link)
            for worker in self._workers.members
            if worker.link is not None and worker.generation == self._workers.generation
        ]
        prepared: list[Member] = []
        try:
            answers = await asyncio.gather(*(self._try_offer(member, offer) for member in asked))
            for member, answer in zip(asked, answers, strict=True):
                if isinstance(answer, str):
                    raise EditRefusedError(answer)
                if answer:
                    prepared.append(member)
        except BaseException:
            roll_back(asked, offer.edit.number)
            raise
        roll_back([member for member in asked if member not in prepared], offer.edit.number)
        return prepared

    async def _try_offer(self, member: Member, offer: Offer) -> bool | str:
        """Return whether a worker has prepared an edit; why not, if it cannot serve the site."""
        try:
            await self.offers.offer(member, offer)
        except LinkError as error:
            if not is_absent(error):
                return str(error)
            log.warning("edit goes on without a worker", worker=member[0].index, reason=str(error))
            return False
        return True

    def adopt(self, edit: Edit) -> None:
        """Have processes that start from now on serve an edit that is committed."""
        workers = self._workers
        workers.generation = edit.generation
        workers.listeners = self._listeners.sockets
        workers.pair = edit.pair
        workers.auth_files = self._auth_files.contents = edit.auth_files

    async def close_listeners(self, listeners: Sequence[Listener]) -> None:
        """Close sockets at which workers no longer accept, and have workers serve the last connections in their queues."""
        for listener in listeners:
            if not listener.is_inherited:
                stop_arrivals(listener.sock)
        if listeners:
            await asyncio.sleep(HANDSHAKE_TIME)
        serving = itertools.cycle([worker.index for worker in self._workers.members if worker.is_ready] or [0])
        sent: list[bool | Awaitable[bool]] = []
        for listener in listeners:
            for connection in close_listener(listener):
                with connection:
                    sent.append(self.offers.send_connection(next(serving), connection.fileno()))
        self._tasks.start_soon(self._count_refused, sent, name="late connections")

    async def _count_refused(self, sent: Sequence[bool | Awaitable[bool]]) -> None:
        """Count and log the connections that no worker has taken. `sent`: whether each was, once that is known."""
        refused = 0
        for each in sent:
            if not (each if isinstance(each, bool) else await each):
                self._admission.count(OWNER_BUSY)
                refused += 1
        if refused:
            hint = "they arrived at an address that an edit has removed; workers did not take them in time"
            log.warning("connections dropped", connections=refused, reason=OWNER_BUSY.reason, hint=hint)

    def check_all(self) -> None:
        """Bring all workers to the site in force."""
        for worker in self._workers.members:
            self.check(worker)

    def check(self, worker: Worker) -> None:
        """Bring a worker to the site in force, unless it has that."""
        link = worker.link
        if link is not None and worker.generation != self._workers.generation and link not in self._catching_up:
            self._catching_up.add(link)
            self._tasks.start_soon(self._catch_up, worker, link, name=f"site of {worker.name}")

    async def _catch_up(self, worker: Worker, link: Link) -> None:
        """Offer the site in force until the worker has it, or has ended. One that refuses it again and again is replaced."""
        refusals = 0
        try:
            while worker.link is link and worker.generation != self._workers.generation:
                try:
                    await self._offer_in_force((worker, link))
                except LinkError as error:
                    if isinstance(error, LinkLostError) or error.kind == "EndingError":
                        return
                    refusals += not is_absent(error)
                    if refusals >= MAX_REFUSALS:
                        log.error("worker replaced", worker=worker.index, reason=f"it cannot serve the edited site: {error}")
                        worker.kill()
                        return
                    await asyncio.sleep(RETRY if is_absent(error) else FAULT_RETRY)
                except Exception:  # no descriptor is left, or a bug, which must not end the server
                    log.exception("the site in force was not sent", worker=worker.index, retry_in=FAULT_RETRY)
                    await asyncio.sleep(FAULT_RETRY)
        finally:
            self._catching_up.discard(link)

    async def _offer_in_force(self, member: Member) -> None:
        """Have a worker apply the site in force, unless that is replaced meanwhile. Raises LinkError."""
        workers = self._workers
        edit = self.offers.make_edit(
            workers.site,
            workers.generation,
            pair=workers.pair,
            auth_files=workers.auth_files,
            addresses=[address for address, _ in workers.listeners],
        )
        try:
            with offering(edit, [sock.fileno() for _, sock in workers.listeners]) as offer:
                await self.offers.offer(member, offer)
        except BaseException:
            roll_back([member], edit.number)
            raise
        if edit.generation == workers.generation:
            commit(member, edit)
            log.info("worker has the edited site", worker=member[0].index, generation=edit.generation)
            repeat_drains(member[0], workers, self._tasks)  # an app that was drained after an earlier edit
        else:
            roll_back([member], edit.number)


class WorkersEdit:
    """An edit that is prepared here and in workers (`Preparation`)."""

    def __init__(self, edits: Edits, edit: Edit, change: Change, members: Sequence[Member], warnings: Sequence[str]) -> None:
        self._edits = edits
        self._edit = edit
        self._change = change
        self._members = members
        self.warnings = warnings
        """Files of `auth` that are broken."""

    def commit(self) -> None:
        """Listen at the new addresses, and have the workers apply the edit."""
        self._change.owner.commit(self._change, keeps_old=True)
        self._edits.adopt(self._edit)
        for member in self._members:
            commit(member, self._edit)

    def roll_back(self) -> None:
        """Have the workers forget the edit, and close the new sockets."""
        roll_back(self._members, self._edit.number)
        self._change.roll_back()

    async def finish(self) -> None:
        """Wait until the workers have applied the edit; then close the sockets that are no longer wanted."""
        await wait_committed(self._members)
        await self._edits.close_listeners(self._change.closing)
        self._edits.check_all()
