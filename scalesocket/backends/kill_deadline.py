"""The gateway's side of the deadline at which the spawner kills all backends by itself (spawner/deadline.py).

A server that holds its rooms by a lease sets it, and a later one after each renewal. So no backend acts for longer than the
lease, even while the gateway is stopped. A gateway that runs kills them too, whether there is a spawner or not.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import structlog

from scalesocket.backends.request_queue import FILES_HINT, Request
from scalesocket.backends.spawner.protocol import DEADLINE_PASSED
from scalesocket.errors import SpawnerError

log = structlog.get_logger()

UNANSWERED: Final = 3
"""Deadlines without an answer after which the spawner hangs. The last one that it knows is then still to come: a lease is
renewed more often."""
PATIENCE: Final = 1.0
"""Seconds for which it may leave them unanswered, at least."""
Send = Callable[[Request, int | None], None]
"""Sends a request to the spawner, with a copy of a descriptor."""


class KillDeadline:
    """The deadline in force, and the sockets to targets, which are shut down at it. Without a deadline, nothing is sent."""

    def __init__(self, send: Send, kill_all: Callable[[], None], check: Callable[[], None]) -> None:
        """`kill_all` kills every child. `check` is called when the spawner seems to hang: see `is_ignored`."""
        self.on_expired: list[Callable[[], None]] = []
        """Called once for each deadline that passes, when all backends are killed: their rooms have to be closed."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._send = send
        self._kill_all = kill_all
        self._check = check
        self._unanswered = 0
        """Deadlines that the spawner has not answered."""
        self._unanswered_since = 0.0
        self._at: float | None = None
        self._has_expired = False
        self._last_expired = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last_word: Request | None = None
        self._sockets: dict[int, int] = {}
        """Descriptors of sockets to targets, by number."""
        self._number = 0

    @property
    def is_ignored(self) -> bool:
        """Whether the spawner does not answer: the guardian would soon kill all backends at the last deadline that it knows."""
        return self._unanswered >= UNANSWERED and boottime() - self._unanswered_since >= PATIENCE

    def note_answer(self) -> None:
        """Note that the spawner serves, or that there is another one."""
        self._unanswered = 0

    def has_passed(self) -> bool:
        """Look at the clock, and return whether the deadline has passed: no backend may start."""
        if self._at is not None and not self._has_expired and boottime() >= self._at:
            self._has_expired = True
            self._expire(self._at)
        return self._has_expired

    def check(self) -> None:
        """Raise SpawnerError if the deadline has passed."""
        if self.has_passed():
            raise SpawnerError(DEADLINE_PASSED)

    def set(self, at: float | None, last_word: Request | None) -> None:
        """Replace the deadline; in seconds of CLOCK_BOOTTIME, None: by none. `last_word`: arguments of `send_last_word`."""
        self.has_passed()  # what was started under the old one must not survive
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        had_none, self._at, self._has_expired = self._at is None, at, False
        if last_word != self._last_word:
            self._last_word = last_word
            self._send({"do": "last word", "word": last_word}, None)
        if at is None and had_none:
            return
        self._send({"do": "deadline", "at": at}, None)
        if at is None:
            return
        if not self._unanswered:
            self._unanswered_since = boottime()
        self._unanswered += 1
        if self.is_ignored:
            self._check()
        if had_none:
            for number in self._sockets:
                self._guard(number)
        self._start_timer()

    def guard(self, fd: int) -> Callable[[], None]:
        """Have a socket shut down at the deadline, until the returned function is called, which must be before it is closed."""
        self._number += 1
        number = self._number
        self._sockets[number] = fd
        if self._at is not None:
            self._guard(number)
            if self.has_passed():
                shut_down(fd)

        def release() -> None:
            if self._sockets.pop(number, None) is not None and self._at is not None:
                self._send({"do": "stop guarding", "id": number}, None)

        return release

    def _guard(self, number: int) -> None:
        try:
            self._send({"do": "guard", "id": number}, self._sockets[number])
        except OSError:  # no descriptor is left for the copy
            self._note_not_guarded(number)

    def requests(self) -> Iterator[tuple[Request, int | None]]:
        """Give a new spawner the deadline and the sockets."""
        self.note_answer()
        if self._last_word is not None:
            yield {"do": "last word", "word": self._last_word}, None
        if self._at is not None:
            yield {"do": "deadline", "at": self._at}, None
            for number, fd in self._sockets.items():
                yield {"do": "guard", "id": number}, fd

    def note_report(self, report: dict[str, Any]) -> None:
        """Note what the spawner reports of the deadline (spawner/protocol.py)."""
        match report:
            case {"deadline": _}:
                self.note_answer()
            case {"expired": at}:
                self._has_expired |= self._at == at
                if at > self._last_expired:
                    self._expire(at)
            case {"not guarded": number}:
                self._note_not_guarded(number)

    def _note_not_guarded(self, number: int) -> None:
        """Note that no descriptor was left for a socket."""
        if number in self._sockets:
            log.error("connection to a target not guarded", hint=FILES_HINT)

    def close(self) -> None:
        """Stop the timer. Calls may repeat."""
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self) -> None:
        assert self._at is not None
        assert self.loop is not None
        self._timer = self.loop.call_later(max(0.0, self._at - boottime()), self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.has_passed():  # the clocks differ by a rounding
            self._start_timer()

    def _expire(self, at: float) -> None:
        """Kill what the spawner may have left, and have the rooms closed."""
        self._last_expired = at
        log.error("backends killed: the lease has ended", hint="no room opens until this node has another lease")
        if self._has_expired:
            self._kill_all()
            for fd in self._sockets.values():
                shut_down(fd)
        for listener in self.on_expired:
            listener()


def boottime() -> float:
    """Return the time of CLOCK_BOOTTIME, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def shut_down(fd: int) -> None:
    """Shut down a connected socket in both directions, and leave its descriptor open."""
    with suppress(OSError):  # it is no longer connected
        duplicate = socket.socket(fileno=os.dup(fd))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
