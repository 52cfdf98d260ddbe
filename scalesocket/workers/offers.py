"""Offers of a new site to workers: what is sent, and how long the supervisor waits for one."""

import asyncio
import itertools
import os
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
import structlog

from scalesocket.auth.sources import Contents
from scalesocket.config.certificates import Pair
from scalesocket.config.model import Site
from scalesocket.placement.facts import Delivery
from scalesocket.placement.inbox import Outbox
from scalesocket.server.addresses import Address
from scalesocket.workers.edit_messages import EDIT, LATE, CommitEdit, Edit, EditPart, PrepareEdit, RollBackEdit, write_edit
from scalesocket.workers.link import Link, LinkBusyError, LinkError, LinkLostError, LinkTimeoutError
from scalesocket.workers.messages import Ping
from scalesocket.workers.slot import Worker
from scalesocket.workers.workers import Workers

log = structlog.get_logger("reload")

PREPARE_TIMEOUT: Final = 15.0
"""Seconds in which a worker must have prepared an edit; then the edit goes on without it."""
COMMIT_TIMEOUT: Final = 5.0
"""Seconds to wait until a worker has applied an edit."""
SILENCE: Final = 2.0
"""Seconds without an answer to a ping after which nothing waits for a worker."""
CHECK_INTERVAL: Final = 0.1
"""Seconds between two looks whether a worker is silent."""

Result = TypeVar("Result")
Member = tuple[Worker, Link]
"""A worker, with the link to the process that was offered a site."""


class Offer:
    """A site on its way to workers, with its descriptors."""

    def __init__(self, edit: Edit, fds: Sequence[int]) -> None:
        self.edit = edit
        self.fds = fds


class Offers:
    """Sends sites to workers."""

    def __init__(self, workers: Workers) -> None:
        loop = asyncio.get_running_loop()
        self._outboxes = [Outbox(sending, loop) for sending, _ in workers.inboxes]
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """Send nothing more."""
        for outbox in self._outboxes:
            outbox.close()

    def make_edit(
        self, site: Site, generation: int, *, pair: Pair | None, auth_files: Contents, addresses: Sequence[Address]
    ) -> Edit:
        """Give a site a number."""
        return Edit(
            number=next(self._numbers),
            generation=generation,
            site=site,
            pair=pair,
            auth_files=auth_files,
            addresses=addresses,
        )

    async def offer(self, member: Member, offer: Offer) -> None:
        """Have a worker prepare a site. Raises LinkError; `is_absent` says whether the worker has refused it."""
        await unless_silent(member[0], self._offer(*member, offer))

    async def _offer(self, worker: Worker, link: Link, offer: Offer) -> None:
        for part, fd in enumerate(offer.fds):
            details = msgspec.msgpack.encode(EditPart(offer.edit.number, part))
            sent = self._outboxes[worker.index].send(Delivery(name=EDIT, details=details), fd)
            if not (sent if isinstance(sent, bool) else await sent):
                raise LinkBusyError(f"{worker.name} does not read its inbox")
        await link.call(PrepareEdit(offer.edit.number, len(offer.fds)), type(None), timeout=PREPARE_TIMEOUT)

    def send_connection(self, worker: int, fd: int) -> bool | Awaitable[bool]:
        """Have a worker serve a connection that was accepted here (`Outbox.send`)."""
        return self._outboxes[worker].send(Delivery(name=LATE), fd)


def commit(member: Member, edit: Edit) -> None:
    """Have a worker apply a site that it has prepared."""
    worker, link = member
    if worker.link is not link:
        return
    worker.generation = edit.generation
    if not link.notify(CommitEdit(edit.number)):
        worker.kill()  # it does not read what it is sent; its successor serves the site in force


def roll_back(members: Sequence[Member], number: int) -> None:
    """Have workers forget a site."""
    for worker, link in members:
        if worker.link is link:
            link.notify(RollBackEdit(number))


async def wait_committed(members: Sequence[Member]) -> None:
    """Wait until workers have applied an edit: they answer a ping that was sent after the commit only then."""

    async def wait(worker: Worker, link: Link) -> None:
        try:
            await unless_silent(worker, link.call(Ping(), type(None), timeout=COMMIT_TIMEOUT))
        except LinkLostError:
            return
        except LinkError as error:
            log.warning("edit goes on without a worker", worker=worker.index, reason=str(error))

    await asyncio.gather(*(wait(*member) for member in members))


def is_absent(error: LinkError) -> bool:
    """Whether a worker has no part in an edit, instead of refusing it."""
    return isinstance(error, LinkLostError | LinkTimeoutError | LinkBusyError) or error.kind in ("EndingError", "RolledBackError")


async def unless_silent(worker: Worker, answer: Awaitable[Result]) -> Result:
    """Wait for the answer of a worker. Raises LinkTimeoutError as soon as the worker does not answer pings either."""
    waiting = asyncio.ensure_future(answer)
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=CHECK_INTERVAL)
            if worker.silent >= SILENCE and not waiting.done():
                raise LinkTimeoutError(f"{worker.name} does not answer")
        return waiting.result()
    finally:
        waiting.cancel()


@contextmanager
def offering(edit: Edit, fds: Sequence[int]) -> Iterator[Offer]:
    """Write an edit into a file for workers; `fds` are its sockets, which may be closed meanwhile."""
    duplicates = [write_edit(edit)]
    try:
        for fd in fds:
            duplicates.append(os.dup(fd))
        yield Offer(edit, duplicates)
    finally:
        for fd in duplicates:
            os.close(fd)
