"""Attempts whose decision takes time: how many of one address are decided at once, and which of them wait for their turn."""

import asyncio
import math
import time
from collections import Counter, deque
from dataclasses import replace
from typing import Final

from scalesocket.auth.denial import NOT_AVAILABLE, TOO_MANY, Denial
from scalesocket.auth.failures import FailureTable, Peer
from scalesocket.config.model import Failures
from scalesocket.wire.address import block_of

MAX_OF_ADDRESS: Final = 256
"""Attempts of one address block that wait; further ones are unavailable at once."""
MAX_WAITING: Final = 4096
"""Attempts of all addresses that wait."""
TIMEOUT: Final = 15.0
"""Seconds for which an attempt waits for its turn."""

Turn = asyncio.Future[Denial | None]


class Turns:
    """Decides no more attempts of an address at once than may still fail. Further ones wait in order.

    So many users behind one address can connect at once, and no more guesses are judged than if they came one by one.
    """

    __slots__ = ("_deciding", "_queues", "_waiting", "failures")

    def __init__(self) -> None:
        """Start without attempts and failures."""
        self.failures = FailureTable()
        self._deciding: Counter[str] = Counter()
        """Attempts that are being decided, by address block."""
        self._queues: dict[str, deque[Turn]] = {}
        """Attempts that wait, by address block; none of the queues is empty."""
        self._waiting = 0

    async def enter(self, peer: Peer, limits: Failures) -> Denial | None:
        """Wait for the turn of an attempt. Return None when it is to be decided; call `leave` after that. Else return why not."""
        if peer is None:
            return None
        block = block_of(peer[0])
        if (denial := self.refusal(peer, limits)) is not None:
            return denial
        if block not in self._queues and self._has_room(block, limits):
            self._deciding[block] += 1
            return None
        if self._waiting >= MAX_WAITING or len(self._queues.get(block, ())) >= MAX_OF_ADDRESS:
            return NOT_AVAILABLE
        return await self._wait(peer, block, limits)

    def leave(self, peer: Peer, limits: Failures) -> None:
        """Let the next attempts go on: one has been decided. If it has failed, `failures` has counted it before."""
        if peer is None:
            return
        block = block_of(peer[0])
        if self._deciding[block] <= 1:
            del self._deciding[block]
        else:
            self._deciding[block] -= 1
        queue = self._queues.get(block)
        while queue:
            denial = self.refusal(peer, limits)
            if denial is None and not self._has_room(block, limits):
                return
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(denial)
                if denial is None:
                    self._deciding[block] += 1
        self._queues.pop(block, None)

    def refusal(self, peer: Peer, limits: Failures) -> Denial | None:
        """Return why an address may make no attempt: too many have failed. None if it may."""
        wait = self.failures.wait(peer, limits, time.monotonic())
        return replace(TOO_MANY, retry_after=math.ceil(wait)) if wait else None

    async def _wait(self, peer: Peer, block: str, limits: Failures) -> Denial | None:
        turn: Turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(block, deque()).append(turn)
        self._waiting += 1
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
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[block]
        elif turn.done() and not turn.cancelled() and turn.result() is None:  # it had its turn in the same iteration of the loop
            self.leave(peer, limits)

    def _has_room(self, block: str, limits: Failures) -> bool:
        """Whether one more attempt may be decided: if all that are being decided fail, there are still no more than `limit`."""
        return self.failures.count(block, limits, time.monotonic()) + self._deciding[block] <= limits.limit - 1
