"""A worker's end of what the supervisor does on the whole site: operations on the rooms of this worker."""

import itertools
from collections import OrderedDict
from typing import Final

import anyio
import msgspec

from scalesocket.control.messages import Outcome, Tail, wait_of
from scalesocket.errors import ScalesocketError
from scalesocket.operations.lookup import NotFoundError, OperationError
from scalesocket.operations.running import Running
from scalesocket.operations.table import Ending, LocalSite, Tailing
from scalesocket.workers.link import Handlers
from scalesocket.workers.site_messages import Missing, Ran, ReadTail, Release, Run, TailLines, WaitEnded

MAX_HELD: Final = 64
"""Tails and waits for rooms; beyond that the oldest is released. The supervisor bounds them, and asks for far fewer."""


class Held:
    """What an operation has started: a tail, or the end of rooms."""

    def __init__(self, going: Tailing | Ending) -> None:
        self.going = going
        self.scope = anyio.CancelScope()
        """Of the question that waits for it."""

    def release(self) -> None:
        """End it."""
        self.scope.cancel()
        if isinstance(self.going, Tailing):
            self.going.close()


class OwnRooms:
    """Carries out what the supervisor asks for, on the rooms of this process.

    The supervisor logs who asks, and bounds the numbers of tails and waits.
    """

    def __init__(self, running: Running) -> None:
        """Operate on `running`."""
        self._site = LocalSite(running)
        self._held: OrderedDict[int, Held] = OrderedDict()
        self._numbers = itertools.count(1)

    def add_handlers(self, handlers: Handlers) -> None:
        """Serve the messages of the supervisor."""
        handlers.add(Run, self.run)
        handlers.add(WaitEnded, self.wait_ended)
        handlers.add(ReadTail, self.read_tail)
        handlers.add(Release, self.release)

    async def run(self, message: Run) -> Ran:
        """Carry out an operation, or open a tail."""
        request = message.request
        try:
            result = await (self._site.open_tail(request) if isinstance(request, Tail) else self._site.carry_out(request))
        except NotFoundError as error:
            return Ran(missing=Missing(text=error.text, certainty=error.certainty, word=error.word, near=error.near))
        except ScalesocketError as error:
            return Ran(error=str(error))
        if isinstance(result, Tailing):
            return Ran(result=_encode(result.outcome), held=self._hold(result))
        if isinstance(result, Ending):
            return Ran(result=_encode(result.outcome), held=None if wait_of(request) is None else self._hold(result))
        return Ran(result=_encode(result))

    async def wait_ended(self, message: WaitEnded) -> Outcome:
        """Wait for the end of rooms. Raises OperationError for rooms that are no longer held."""
        held = self._find(message.held)
        assert isinstance(held.going, Ending)
        held.scope = anyio.CancelScope()
        with held.scope:
            return await held.going.wait_ended(message.seconds)
        return held.going.outcome

    async def read_tail(self, message: ReadTail) -> TailLines:
        """Wait for messages of a tail. Raises OperationError for a tail that is no longer held."""
        held = self._find(message.held)
        assert isinstance(held.going, Tailing)
        held.scope = anyio.CancelScope()
        with held.scope:
            return TailLines(await held.going.read())
        return TailLines(None)

    def release(self, message: Release) -> None:
        """End a tail or a wait. It may have been released before."""
        if (held := self._held.pop(message.held, None)) is not None:
            held.release()

    def _hold(self, going: Tailing | Ending) -> int:
        number = next(self._numbers)
        self._held[number] = Held(going)
        while len(self._held) > MAX_HELD:
            self._held.popitem(last=False)[1].release()
        return number

    def _find(self, number: int) -> Held:
        if (held := self._held.get(number)) is None:
            raise OperationError("this tail or wait was released")
        return held


def _encode(result: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(result))
