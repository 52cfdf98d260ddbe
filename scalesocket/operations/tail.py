"""`tail`: the messages of rooms while they pass, at a bounded rate and from a bounded queue.

A tail is attached to its rooms as taps. What exceeds a bound is left out, counted and reported; a room never waits for it.
"""

import asyncio
import base64
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from scalesocket.control.messages import Outcome, Tail, TailEvent
from scalesocket.operations.lookup import OperationError, find_rooms
from scalesocket.operations.running import Running
from scalesocket.rooms.room import Room
from scalesocket.wire.batch import NOBODY, Batch, ClientId
from scalesocket.wire.frames import Event, Opcode

MAX_RATE: Final = 1000
"""Messages noted in a `WINDOW`."""
WINDOW: Final = 1.0
"""Seconds."""
MAX_QUEUED: Final = 1024 * 1024
"""Bytes in the queue: of payloads, and `OVERHEAD` for each message."""
OVERHEAD: Final = 256
"""Bytes of memory for a message besides its payload, about."""
MAX_PAYLOAD: Final = 4096
"""Bytes of a payload that are shown."""
MAX_IDS: Final = 100
"""Ids of recipients that are shown."""
MAX_CHUNK: Final = 32 * 1024
"""Bytes of payload that are encoded at once: half a millisecond."""
MAX_ROOMS: Final = 1000
"""Rooms of one tail."""


class Passage(NamedTuple):
    """The room of the messages, their sender and receivers."""

    at: float
    app: str
    room: str
    event: str
    client: ClientId | None = None
    to: frozenset[ClientId] | None = None
    exclude: frozenset[ClientId] = NOBODY


class Noted(NamedTuple):
    """A message as it waits in the queue, to be encoded when it is read."""

    passage: Passage
    opcode: Opcode
    payload: bytes
    """At most `MAX_PAYLOAD` bytes of it."""
    size: int


class RoomTap:
    """Notes the messages of one room for a tail (`rooms.tap.Tap`)."""

    __slots__ = ("_app", "_tail", "room")

    def __init__(self, tail: "OpenTail", app: str, room: Room) -> None:
        """Note the messages of `room` in `tail`."""
        self._tail = tail
        self._app = app
        self.room = room

    def received(self, client: ClientId, messages: Sequence[Event]) -> None:
        """Note messages of a client."""
        if self._tail.admits(len(messages)):
            self._tail.note(Passage(time.time(), self._app, self.room.name, "in", client=client), messages, len(messages))

    def sent(self, batch: Batch) -> None:
        """Note messages of the backend, also those without recipients."""
        if self._tail.admits(len(batch.payloads)):
            passage = Passage(time.time(), self._app, self.room.name, "out", to=batch.to, exclude=batch.exclude)
            messages = ((batch.opcode, payload) for payload in batch.payloads)
            self._tail.note(passage, messages, len(batch.payloads))

    def room_ended(self) -> None:
        """Note the end of the room."""
        self._tail.room_ended(self, TailEvent(at=time.time(), app=self._app, room=self.room.name, event="ended"))


class OpenTail:
    """A running tail. `read` returns what was noted; `close` ends it."""

    def __init__(self) -> None:
        """Begin without rooms."""
        self._taps: list[RoomTap] = []
        self._queue: deque[Noted | TailEvent] = deque()
        self._queued = 0
        """Bytes of the queue."""
        self._left_out = 0
        """Messages that were left out and not reported yet."""
        self._now = asyncio.get_running_loop().time
        self._window_began = self._now()
        self._noted = 0
        """Messages noted since then."""
        self._has_news = asyncio.Event()

    @property
    def outcome(self) -> Outcome:
        """The rooms it is attached to, and their clients."""
        return Outcome(rooms=len(self._taps), clients=sum(len(tap.room.clients) for tap in self._taps))

    def attach(self, app: str, room: Room) -> None:
        """Note the messages of a room from now on."""
        tap = RoomTap(self, app, room)
        self._taps.append(tap)
        room.taps.attach(tap)

    def close(self) -> None:
        """Note nothing more."""
        for tap in self._taps:
            tap.room.taps.detach(tap)
        self._taps.clear()

    # --- What taps report

    def admits(self, count: int) -> bool:
        """Return whether any of `count` messages may be noted; else count them as left out: a microsecond in a busy room."""
        if self._now() - self._window_began >= WINDOW:
            self._begin_window()
        if self._noted < MAX_RATE and self._queued + OVERHEAD <= MAX_QUEUED:
            return True
        self._leave_out(count)
        return False

    def note(self, passage: Passage, messages: Iterable[Event], count: int) -> None:
        """Note as many of these `count` messages as the bounds allow."""
        noted = 0
        for opcode, payload in islice(messages, MAX_RATE - self._noted):
            size = min(len(payload), MAX_PAYLOAD) + OVERHEAD
            if self._queued + size > MAX_QUEUED:
                break
            self._queue.append(Noted(passage, opcode, payload[:MAX_PAYLOAD], len(payload)))
            self._queued += size
            noted += 1
        self._noted += noted
        self._has_news.set()
        self._leave_out(count - noted)

    def room_ended(self, tap: RoomTap, event: TailEvent) -> None:
        """Note the end of a room."""
        with suppress(ValueError):
            self._taps.remove(tap)
        self._report_left_out()
        self._queue.append(event)
        self._has_news.set()

    # --- For the reader

    async def read(self) -> bytes | None:
        """Wait for events and return some, each a line of JSON. None after the end of the last room."""
        while not self._queue:
            if not self._taps:
                return None
            self._has_news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WINDOW if self._left_out else None):
                    await self._has_news.wait()
            if self._now() - self._window_began >= WINDOW:
                self._begin_window()
        lines, size = [], 0
        while self._queue and size < MAX_CHUNK:
            noted = self._queue.popleft()
            if isinstance(noted, Noted):
                size += len(noted.payload) + OVERHEAD
                self._queued -= len(noted.payload) + OVERHEAD
                noted = _describe(noted)
            lines.append(msgspec.json.encode(noted))
        return b"\n".join([*lines, b""])

    def _leave_out(self, count: int) -> None:
        if count and not self._left_out:
            self._has_news.set()  # the reader waits for the end of the window from now on
        self._left_out += count

    def _begin_window(self) -> None:
        """Begin a new window, and report what was left out in the last one."""
        self._window_began, self._noted = self._now(), 0
        self._report_left_out()

    def _report_left_out(self) -> None:
        if not self._left_out:
            return
        last = self._queue[-1] if self._queue else None
        if isinstance(last, TailEvent) and last.event == "left_out":  # the reader is too slow: the queue does not grow
            self._queue.pop()
            self._left_out += last.count or 0
        self._queue.append(TailEvent(at=time.time(), event="left_out", count=self._left_out))
        self._left_out = 0


def check_number(rooms: int) -> None:
    """Raise OperationError if these are too many rooms for one tail."""
    if rooms > MAX_ROOMS:
        raise OperationError(f"{rooms} rooms match (at most {MAX_ROOMS} at a time)")


def open_tail(running: Running, request: Tail) -> OpenTail:
    """Attach a tail to rooms. Raises NotFoundError, and OperationError if there are too many."""
    rooms = find_rooms(running.gateway, request.app, request.room)
    check_number(len(rooms))
    tail = OpenTail()
    for pool, room in rooms:
        tail.attach(pool.app.name, room)
    return tail


def _describe(noted: Noted) -> TailEvent:
    passage, is_text = noted.passage, noted.opcode is Opcode.TEXT
    return TailEvent(
        at=passage.at,
        app=passage.app,
        room=passage.room,
        event=passage.event,
        client=passage.client,
        to=_ids(passage.to),
        exclude=_ids(passage.exclude or None),
        text=noted.payload.decode(errors="ignore") if is_text else None,  # a character may be cut in two
        base64=None if is_text else base64.b64encode(noted.payload).decode(),
        size=noted.size,
        is_truncated=noted.size > len(noted.payload),
    )


def _ids(ids: frozenset[ClientId] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(sorted(islice(ids, MAX_IDS)))
