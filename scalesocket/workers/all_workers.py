"""Operations on the site of all workers (`table.Operated`): each is carried out by every worker on its own rooms."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from scalesocket.control.messages import Diff, Drain, Outcome, Reload, Request, Status, Tail, wait_of
from scalesocket.operations.running import Running
from scalesocket.operations.table import OPERATIONS, Tailing, name_of, operation_of
from scalesocket.operations.tail import check_number
from scalesocket.workers.link import CALL_TIMEOUT, Link, LinkError, LinkLostError
from scalesocket.workers.merge import add_outcomes, merge_answers
from scalesocket.workers.merged_overview import MergedOverview
from scalesocket.workers.merged_tail import MergedTail, WorkerTail
from scalesocket.workers.site_messages import Ran, Release, Run, WaitEnded
from scalesocket.workers.slot import Worker
from scalesocket.workers.workers import Workers

RUN_TIMEOUT: Final = 30.0
"""Seconds in which a worker must have carried out an operation, besides those for which it waits for the end of rooms."""

Answers = Sequence[tuple[Link | None, Ran | LinkError]]
"""Of each worker, with the link to the process that has given it."""


class AllWorkers:
    """The workers of a server."""

    def __init__(self, workers: Workers, overview: MergedOverview, running: Running) -> None:
        """Operate on `workers`. `running` has the reloader; its gateway has no apps."""
        self._workers = workers
        self._overview = overview
        self._running = running

    async def carry_out(self, request: Request) -> object:
        """Do what a request asks for, in all workers."""
        if isinstance(request, Status):
            return await self._overview.take_status()
        if isinstance(request, Diff | Reload):  # edits are the supervisor's
            return await operation_of(request).run(self._running, request)
        undo = self._note_drained(request) if isinstance(request, Drain) else None
        answers = await self._ask_all(request)
        try:
            result = merge_answers(request, [answer for _, answer in answers], result_decoder(request))
        except BaseException:
            release_all(answers)
            if undo is not None and not any(isinstance(answer, Ran) and answer.is_done for _, answer in answers):
                undo()
            raise
        return result if wait_of(request) is None else MergedEnding(result, answers)

    async def open_tail(self, request: Tail) -> Tailing:
        """Show messages of rooms, in whichever workers they are."""
        answers = await self._ask_all(request)
        try:
            outcome: Outcome = merge_answers(request, [answer for _, answer in answers], result_decoder(request))
            check_number(outcome.rooms)
        except BaseException:
            release_all(answers)
            raise
        parts = [WorkerTail(link, held, decode_outcome(ran.result).rooms) for link, ran, held in find_held(answers)]
        return MergedTail(outcome, parts)

    async def _ask_all(self, request: Request) -> Answers:
        """Return the answers by worker."""

        async def ask(worker: Worker) -> tuple[Link | None, Ran | LinkError]:
            link = worker.link
            if link is None:
                return None, LinkLostError(f"{worker.name} is not running")
            try:
                return link, await link.call(Run(request), Ran, timeout=RUN_TIMEOUT)
            except LinkError as error:
                return link, error

        return list(await asyncio.gather(*map(ask, self._workers.members)))

    def _note_drained(self, request: Drain) -> Callable[[], None] | None:
        """Have processes that start from now on drained, too. Return what undoes that, if it was not so before."""
        app, workers, admission = request.app, self._workers, self._running.gateway.admission
        if app is None and not workers.is_draining:
            admission.is_closed = workers.is_draining = True

            def undo() -> None:
                admission.is_closed = workers.is_draining = False

            return undo
        if app is None or app in workers.drained:
            return None
        workers.note_drained(app)
        return lambda: workers.forget_drained(app)


class MergedEnding:
    """Rooms in several workers that have begun to close (`table.Ending`)."""

    def __init__(self, outcome: Outcome, answers: Answers) -> None:
        self.outcome = outcome
        self._answers = answers

    async def wait_ended(self, seconds: float) -> Outcome:
        """Wait for the end of the rooms in all workers. Those of a worker that ends have ended."""

        async def wait(link: Link, ran: Ran, held: int) -> Outcome:
            try:
                return await link.call(WaitEnded(held, seconds), Outcome, timeout=seconds + CALL_TIMEOUT)
            except LinkError as error:
                begun = decode_outcome(ran.result)
                pending = 0 if isinstance(error, LinkLostError) else begun.rooms
                return msgspec.structs.replace(begun, pending=pending)

        try:
            return add_outcomes(await asyncio.gather(*(wait(*one) for one in find_held(self._answers))))
        finally:
            release_all(self._answers)


def find_held(answers: Answers) -> Sequence[tuple[Link, Ran, int]]:
    """Return what workers hold, with the numbers under which they do."""
    return [
        (link, answer, answer.held)
        for link, answer in answers
        if link is not None and isinstance(answer, Ran) and answer.held is not None
    ]


def release_all(answers: Answers) -> None:
    """Have workers hold nothing more of these answers."""
    for link, _, held in find_held(answers):
        link.notify(Release(held))


def decode_outcome(result: msgspec.Raw) -> Outcome:
    """Decode the result of an operation that ends rooms, or of a tail."""
    return msgspec.msgpack.decode(result, type=Outcome)


def result_decoder(request: Request) -> Callable[[msgspec.Raw], Any]:
    """Return what decodes the result of an operation in one worker."""
    kind = Outcome if isinstance(request, Tail) else OPERATIONS[name_of(request)].result
    return lambda result: msgspec.msgpack.decode(result, type=kind)
