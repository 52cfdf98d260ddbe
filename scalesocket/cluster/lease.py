"""The lease of this node: renewed in time; if that fails, given up in time and opened again. `run` is its only task.

All times are of CLOCK_BOOTTIME, which also runs while the machine is suspended. A lease counts from before its renewal was sent,
so that it ends here before it does in the engine, whatever the clocks of the two say.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Final

import structlog

from scalesocket.cluster.directory import Directory, LeaseMismatchError, NameTakenError
from scalesocket.cluster.link import EngineError
from scalesocket.cluster.records import Load, Lost, Taken
from scalesocket.cluster.sparse_log import SparseLog

log = structlog.get_logger("cluster")

RENEWALS: Final = 5
"""Renewals in the time of one lease."""
USABLE: Final = 0.8
"""Part of the lease after which this node gives its rooms up. The rest is the margin until others may have them."""
RETRY: Final = 0.05
"""Part of the lease after which what failed is tried again; `LONGEST_RETRY` seconds at most."""
LONGEST_RETRY: Final = 1.0
SLOW: Final = 0.1
"""Part of the lease after which the answer to a renewal is slow."""
LATE: Final = 0.5
"""Part of the lease: with less of it left, renewals have failed, or their answers are late."""
LOOK: Final = 0.25
"""Seconds between two readings of the clock: a timer of the event loop does not run while the machine is suspended."""
CLOSE_TIMEOUT: Final = 1.0
_RNG: Final = Random()


def boottime() -> float:
    """Return the seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """What entitles this node to run rooms."""

    def __init__(
        self,
        directory: Directory,
        seconds: float,
        *,
        load: Callable[[], Load],
        on_deadline: Callable[[float | None], None],
        on_lost: Callable[[], Awaitable[None]],
        on_taken: Callable[[Taken], Awaitable[None]] | None = None,
        keeps_rooms: bool = False,
    ) -> None:
        """Keep the session of `directory` alive with a lease of `seconds`.

        `load` is sent with each renewal. `on_deadline` gets each new time of CLOCK_BOOTTIME at which all rooms must have ended,
        unless there is a newer one by then. `on_lost` ends all rooms; only when it has returned, a new session is opened.
        `on_taken` is called before the first session while another process has the name; it raises NameTakenError to give up.
        `keeps_rooms`: rooms go on without a lease; the deadline is then always None, and `on_lost` is not called.
        """
        self._directory = directory
        self._seconds = seconds
        self._load = load
        self._on_deadline = on_deadline
        self._on_lost = on_lost
        self._on_taken = on_taken
        self.keeps_rooms = keeps_rooms
        """Whether rooms go on without a lease."""
        self._deadline = 0.0
        self._is_open = False
        self._is_down = False
        self._sparse_log = SparseLog()
        self.tried = asyncio.Event()
        """Set when the first attempt to open a session has succeeded or failed."""
        self.lost = 0
        """How often the lease was lost."""
        self.renewals = 0
        """Times that the engine renewed it, or opened a session."""

    @property
    def is_valid(self) -> bool:
        """Whether this node may open rooms, and run them. The clock is read each time."""
        return self._is_open and (self.keeps_rooms or boottime() < self._deadline)

    @property
    def deadline(self) -> float:
        """The time of CLOCK_BOOTTIME at which it ends; 0 before the first session."""
        return self._deadline

    @property
    def seconds_left(self) -> float:
        """The seconds until then; 0 if it has ended."""
        return max(0.0, self._deadline - boottime()) if self._is_open else 0.0

    @property
    def is_late(self) -> bool:
        """Whether the lease is lost, or may soon be: renewals fail, or the engine takes long to answer them."""
        return self.seconds_left < LATE * self._seconds

    async def run(self) -> None:
        """Open a session, renew it, and open another when it is lost, until cancelled. Then end the session.

        Raises LeaseMismatchError if another node has another lease, and NameTakenError if another process has the name.
        """
        try:
            while True:
                await self._open()
                await self._renew_until_lost()
                self._is_open = False
                self.lost += 1
                log.error("lease lost", effect="rooms go on" if self.keeps_rooms else "all rooms end")
                if not self.keeps_rooms:
                    await self._on_lost()
        finally:
            self._is_open = False
            with suppress(EngineError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._directory.close_session()

    async def _open(self) -> None:
        is_taken = False
        while True:
            sent_at = boottime()
            try:
                found = await self._directory.open_session(keeps_rooms=self.keeps_rooms)
            except (LeaseMismatchError, NameTakenError):
                raise
            except EngineError as error:
                self._note_failure(error)
            else:
                self._note_answer()
                if not isinstance(found, Taken):
                    break
                if self._on_taken is not None and not self.renewals:
                    await self._on_taken(found)
                if not is_taken:
                    is_taken = True
                    log.warning(
                        "another process has the name of this node: waiting until its lease ends",
                        node=self._directory.node,
                        address=found.advertise,
                        seconds=round(found.seconds, 1),
                    )
            self.tried.set()
            await self._pause()
        self._extend(sent_at)
        self._is_open = True
        self.tried.set()
        log.info("lease opened", node=self._directory.node, session=found.inc)

    async def _renew_until_lost(self) -> None:
        """Renew until the engine says that the session has ended, or until the deadline."""
        renewing = asyncio.create_task(self._renew(), name="renew the lease")
        try:
            while not renewing.done() and (self.keeps_rooms or self.is_valid):
                left = LOOK if self.keeps_rooms else min(LOOK, self.seconds_left)
                await asyncio.wait({renewing}, timeout=left)
            if renewing.done():
                renewing.result()
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renew(self) -> None:
        """Renew until the engine says that the session has ended."""
        next_at = boottime() + self._seconds / RENEWALS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - boottime())):
                    await self._directory.doubt.wait()
            sent_at = boottime()
            try:
                if isinstance(await self._directory.renew(self._load()), Lost):
                    return
            except EngineError as error:
                self._note_failure(error)
                await self._pause()
                next_at = boottime()
                continue
            if not self.is_valid:  # the deadline passed meanwhile, and with it all rooms ended
                return
            self._note_answer()
            self._extend(sent_at)
            if (took := boottime() - sent_at) > SLOW * self._seconds:
                self._sparse_log.warn("engine slow", seconds=round(took, 2), lease_left=round(self.seconds_left, 1))
            next_at = sent_at + self._seconds / RENEWALS * _RNG.uniform(0.9, 1.0)

    async def _pause(self) -> None:
        await asyncio.sleep(min(RETRY * self._seconds, LONGEST_RETRY) * _RNG.uniform(0.5, 1.0))

    def _extend(self, sent_at: float) -> None:
        self.renewals += 1
        self._deadline = sent_at + self._seconds * USABLE
        self._on_deadline(None if self.keeps_rooms else self._deadline)

    def _note_failure(self, error: EngineError) -> None:
        """Log the first failure after a success."""
        if not self._is_down:
            self._is_down = True
            log.warning("engine unavailable", error=str(error), lease_left=round(self.seconds_left, 1))

    def _note_answer(self) -> None:
        if self._is_down:
            self._is_down = False
            log.info("engine answers again")
