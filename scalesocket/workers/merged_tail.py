"""A tail of rooms in several workers or nodes. Each is asked for more only when it was read, so no message waits here."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import msgspec

from scalesocket.control.messages import Outcome, TailEvent
from scalesocket.workers.link import Link, LinkError
from scalesocket.workers.site_messages import ReadTail, Release, TailLines


class PartLostError(Exception):
    """The process of a part of a tail has ended, or is not reached any more."""


class TailPart(ABC):
    """A tail in one process."""

    def __init__(self, rooms: int, node: str | None = None) -> None:
        """`rooms`: how many it shows. `node`: where it is, in a cluster."""
        self._rooms = rooms
        self.reading: asyncio.Task[bytes | None] | None = None
        """The question for more, until its answer was taken."""
        self._node = node
        self._is_lost = False

    def start_reading(self) -> asyncio.Task[bytes | None]:
        """Ask for more, unless that was done."""
        if self.reading is None:
            self.reading = asyncio.create_task(self._read(), name="read a tail")
        return self.reading

    def close(self) -> None:
        """End the tail in its process."""
        if self.reading is not None:
            self.reading.cancel()
        self.end()

    @abstractmethod
    async def read_more(self) -> bytes | None:
        """Wait for events; None at the end. Raises PartLostError."""

    @abstractmethod
    def end(self) -> None:
        """Read nothing more. Calls may repeat."""

    async def _read(self) -> bytes | None:
        if self._is_lost:
            return None
        try:
            return await self.read_more()
        except PartLostError:
            self._is_lost = True
            event = TailEvent(at=time.time(), event="lost", count=self._rooms, node=self._node)
            return msgspec.json.encode(event) + b"\n"


class WorkerTail(TailPart):
    """A tail in one worker."""

    def __init__(self, link: Link, held: int, rooms: int) -> None:
        """Read the tail that the worker at the other end of `link` holds under this number."""
        super().__init__(rooms)
        self._link = link
        self._held = held

    async def read_more(self) -> bytes | None:
        """Ask the worker."""
        try:
            return (await self._link.call(ReadTail(self._held), TailLines, timeout=None)).lines
        except LinkError as error:  # the worker has ended, or is killed because it does not read
            raise PartLostError(str(error)) from error

    def end(self) -> None:
        """Have the worker release it."""
        self._link.notify(Release(self._held))


class MergedTail:
    """The tails of all processes that have such rooms (`table.Tailing`)."""

    def __init__(self, outcome: Outcome, parts: Sequence[TailPart]) -> None:
        self.outcome = outcome
        self._parts = deque(parts)

    async def read(self) -> bytes | None:
        """Wait for events of any process, and return some; None at the end of all. A cancelled call loses nothing."""
        while self._parts:
            reading = [part.start_reading() for part in self._parts]
            await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            while not self._parts[0].start_reading().done():
                self._parts.rotate(-1)
            part = self._parts[0]
            lines = part.start_reading().result()
            part.reading = None
            if lines is None:
                self._parts.popleft()
                part.close()
            else:
                self._parts.rotate(-1)  # the others are next
                return lines
        return None

    def close(self) -> None:
        """End the tails in all processes. Calls may repeat."""
        while self._parts:
            self._parts.popleft().close()
