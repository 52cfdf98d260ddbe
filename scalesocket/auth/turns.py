"""Attempts whose decision takes time: how many of one address are decided at once, and which of them wait for their turn."""

import asyncio
import math
import time
from collections import Counter, deque
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple, Protocol

from scalesocket.auth.denial import NOT_AVAILABLE, TOO_MANY, Denial
from scalesocket.auth.failures import Failed, FailureTable, Peer
from scalesocket.config.model import Failures
from scalesocket.wire.address import block_of

MAX_OF_ADDRESS: Final = 256
"""Attempts of one address block that wait; further ones are unavailable at once."""
MAX_WAITING: Final = 4096
"""Attempts of all addresses that wait."""
TIMEOUT: Final = 15.0
"""Seconds for which an attempt waits for its turn."""
POLL_INTERVAL: Final = 0.05
"""Seconds between two looks whether attempts in other processes have been decided."""
POLLED: Final = 256
"""Addresses that one look is for; the next one is for others."""

Turn = asyncio.Future[Denial | None]


class Queue(NamedTuple):
    """The attempts of one address that wait."""

    peer: tuple[str, int]
    limits: Failures
    turns: deque[Turn]


class Deciding(Protocol):
    """The attempts that are being decided, by address block."""

    def enter(self, block: str) -> int | None:
        """Count an attempt; return how many there are now. None: that cannot be found out now, and nothing was counted."""

    def leave(self, block: str) -> None:
        """Uncount an attempt."""


class LocalDeciding:
    """The attempts in a server of one process (`Deciding`)."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        """Start without attempts."""
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of blocks with attempts."""
        return len(self._counts)

    def enter(self, block: str) -> int:
        """Count an attempt."""
        self._counts[block] += 1
        return self._counts[block]

    def leave(self, block: str) -> None:
        """Uncount an attempt."""
        if self._counts[block] <= 1:
            del self._counts[block]
        else:
            self._counts[block] -= 1


class Turns:
    """Decides no more attempts of an address at once than may still fail. Further ones wait in order.

    So many users behind one address can connect at once, and no more guesses are judged than if they came one by one.
    """

    __slots__ = ("_deciding", "_poll", "_queues", "_waiting", "failures")

    def __init__(self, failures: Failed | None = None, deciding: Deciding | None = None) -> None:
        """Count in these tables, which other processes may share; None: alone, from the start without attempts and failures."""
        self.failures = FailureTable() if failures is None else failures
        self._deciding = LocalDeciding() if deciding is None else deciding
        self._poll: asyncio.TimerHandle | None = None
        self._queues: dict[str, Queue] = {}
        """By address block; none is empty."""
        self._waiting = 0

    async def enter(self, peer: Peer, limits: Failures) -> Denial | None:
        """Wait for the turn of an attempt. Return None when it is to be decided; call `leave` after that. Else return why not."""
        if peer is None:
            return None
        block = block_of(peer[0])
        if (denial := self.refusal(peer, limits)) is not None:
            return denial
        if block not in self._queues and self._begin(block, limits):
            return None
        if self._waiting >= MAX_WAITING or (block in self._queues and len(self._queues[block].turns) >= MAX_OF_ADDRESS):
            return NOT_AVAILABLE
        return await self._wait(peer, block, limits)

    def leave(self, peer: Peer, limits: Failures) -> None:
        """Let the next attempts go on: one has been decided. If it has failed, `failures` has counted it before."""
        if peer is not None:
            block = block_of(peer[0])
            self._deciding.leave(block)
            self._advance(block, limits)

    def refusal(self, peer: Peer, limits: Failures) -> Denial | None:
        """Return why an address may make no attempt: too many have failed. None if it may."""
        wait = self.failures.wait(peer, limits, time.monotonic())
        return denial_of(wait) if wait else None

    def refuse(self, peer: Peer, limits: Failures) -> Denial:
        """Return the denial of an attempt that was made when, by other processes, too many had failed already."""
        return denial_of(max(1.0, self.failures.wait(peer, limits, time.monotonic())))

    def _advance(self, block: str, limits: Failures) -> None:
        """Let waiting attempts of an address proceed as far as its limit allows; refuse them if too many have failed."""
        queue = self._queues.get(block)
        if queue is None:
            return
        while queue.turns:
            if queue.turns[0].done():  # given up in this iteration of the event loop
                queue.turns.popleft()
            elif (denial := self.refusal(queue.peer, limits)) is not None or self._begin(block, limits):
                queue.turns.popleft().set_result(denial)
            else:
                return
        del self._queues[block]

    def _begin(self, block: str, limits: Failures) -> bool:
        """Begin to decide an attempt if, when all that are being decided fail, there are still no more failures than `limit`.

        It is counted before the failures are: an attempt in another process that fails counts among those before it ends.
        """
        deciding = self._deciding.enter(block)
        if deciding is None:
            return False
        if self.failures.count(block, limits, time.monotonic()) + deciding <= limits.limit:
            return True
        self._deciding.leave(block)
        return False

    async def _wait(self, peer: tuple[str, int], block: str, limits: Failures) -> Denial | None:
        turn: Turn = asyncio.get_running_loop().create_future()
        if block not in self._queues:
            self._queues[block] = Queue(peer, limits, deque())
        self._queues[block].turns.append(turn)
        self._waiting += 1
        self._poll_later()
        try:
            async with asyncio.timeout(TIMEOUT):
                return await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            self._give_up(turn, peer, block, limits)
            if isinstance(error, TimeoutError):
                return NOT_AVAILABLE
            raise
        finally:
            self._waiting -= 1

    def _give_up(self, turn: Turn, peer: Peer, block: str, limits: Failures) -> None:
        queue = self._queues.get(block)
        if queue is not None and turn in queue.turns:
            queue.turns.remove(turn)
            if not queue.turns:
                del self._queues[block]
        elif turn.done() and not turn.cancelled() and turn.result() is None:  # it had its turn in the same iteration of the loop
            self.leave(peer, limits)

    def _poll_later(self) -> None:
        """While attempts wait, look whether those that other processes decide have ended."""
        if self.failures.is_shared and self._poll is None and self._queues:
            self._poll = asyncio.get_running_loop().call_later(POLL_INTERVAL, self._look)

    def _look(self) -> None:
        self._poll = None
        for block in tuple(islice(self._queues, POLLED)):
            queue = self._queues[block] = self._queues.pop(block)  # the next look begins with the others
            self._advance(block, queue.limits)
        self._poll_later()


def denial_of(wait: float) -> Denial:
    """Refuse an attempt for so many seconds."""
    return replace(TOO_MANY, retry_after=math.ceil(wait))
