"""The input of a room on its way to the backend: written to it, or queued until there is one."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from scalesocket.backends.backend import Backend
from scalesocket.status import Counts

MAX_QUEUED: Final = 256 * 1024
"""Bytes of input that are queued for a starting backend before its clients are held."""
MAX_BEHIND: Final = 16 * 1024 * 1024
"""Bytes queued, here or in the backend's pipe, above which no client may join: each one adds a join message and what came with
its handshake."""
GRACE: Final = 1.5
"""Seconds in which a backend that refuses input may turn out to have ended: three times what it takes to notice that."""


class Membership(bytes):
    """A join or leave record. It concerns one backend: the next one gets a join record for each client that is present."""

    __slots__ = ()


class Senders(Protocol):
    """What an intake needs of the clients that send the input (`edge.ports.RoomAudience`)."""

    def hold(self) -> None:
        """Stop reading from all clients."""

    def release(self) -> None:
        """Read from all clients again."""


class Intake:
    """Writes the input of one room to its backend, in order, and holds the clients when too much is queued.

    Without a backend, input is queued for the next one. A backend that refuses input has most likely ended, which is not
    known yet: if another one may follow, input is queued for that, for `GRACE` seconds.
    """

    __slots__ = (
        "_backend",
        "_counts",
        "_is_ended",
        "_is_holding",
        "_is_refusing",
        "_may_restart",
        "_queue",
        "_queued",
        "_senders",
        "_suspect",
        "_timer",
        "written",
    )

    def __init__(self, senders: Senders, counts: Counts, *, may_restart: Callable[[], bool]) -> None:
        """Take the input of `senders`; the first backend has not begun. `may_restart`: whether another may follow a backend."""
        self._senders = senders
        self._counts = counts
        self._may_restart = may_restart
        self._backend: Backend | None = None
        self._suspect: Backend | None = None
        """The backend that refused input and is not known to have ended."""
        self._is_refusing = False
        """The backend refuses input and still runs."""
        self._timer: asyncio.TimerHandle | None = None
        self._queue: list[tuple[bytes, int]] = []  # each with the number of messages in it
        self._queued = 0  # bytes
        self._is_holding = False
        self._is_ended = False
        self.written = 0
        """Bytes written to the running backend."""

    @property
    def unsent(self) -> int:
        """Bytes that were written to the backend and that it has not taken yet."""
        return self._backend.unsent if self._backend is not None else 0

    @property
    def is_behind(self) -> bool:
        """Whether so much is queued that no other client should join."""
        return self._queued > MAX_BEHIND or self.unsent > MAX_BEHIND

    def write(self, records: bytes, messages: int = 0) -> bool:
        """Write input to the backend or queue it for the next one; return False if no backend will take it.

        `messages`: how many messages of clients it contains, to be counted as dropped if no backend takes it after all.
        """
        if self._backend is not None:
            self.written += len(records)
            if self._backend.write(records):
                return True
            if self._is_refusing or self._is_ended or not self._may_restart():
                self._backend.reclaim()  # the rest of the queue is not delivered
                return False
            self._suspect_end(self._backend)
        if self._is_ended:
            return False
        if records:
            self._queue.append((records, messages))
            self._queued += len(records)
            if self._queued > MAX_QUEUED and not self._is_holding:
                self.hold()
        return True

    def write_membership(self, record: bytes) -> None:
        """Write a join or leave record, unless it is empty.

        It is discarded while the backend is suspected to have ended: the next one gets join records for those present.
        """
        if record and self._suspect is None:
            self.write(Membership(record))

    def hold(self) -> None:
        """Stop reading from the clients: too much is queued, or the backend's buffer is full."""
        self._is_holding = True
        if not self._is_ended:
            self._senders.hold()

    def release(self) -> None:
        """Read from the clients again."""
        self._is_holding = False
        if not self._is_ended:
            self._senders.release()

    def begin(self, backend: Backend) -> None:
        """Write what is queued to a new backend, and from now on all input."""
        self._end_suspicion()
        self._backend, self._is_refusing = backend, False
        self.written = 0
        queue, self._queue, self._queued = self._queue, [], 0
        self.release()
        for records, messages in queue:  # piece by piece, so that little is lost if the backend ends meanwhile
            if not self.write(records, messages):
                self._counts.messages_dropped += messages

    def await_next(self, joins: Sequence[bytes]) -> None:
        """Queue input for the next backend: `joins` first, then what the ended one left. Its membership records are dropped."""
        backend = self._backend or self._suspect
        left = backend.reclaim() if backend is not None else []
        self._end_suspicion()
        self._backend = None
        queue = [*((piece, 0) for piece in left), *self._queue]
        messages = [(piece, count) for piece, count in queue if type(piece) is not Membership]
        self._queue = [*((Membership(join), 0) for join in joins if join), *messages]
        self._queued = sum(len(piece) for piece, _ in self._queue)

    def detach(self) -> None:
        """Forget the backend: it is gone."""
        self._end_suspicion()
        self._backend = None

    def end(self) -> None:
        """Refuse input from now on. Messages that are still queued are counted as dropped."""
        self.detach()
        self._drop_queue()
        self._is_ended = True
        self._may_restart = _never  # a reference to the room would keep it alive

    def _suspect_end(self, backend: Backend) -> None:
        self._backend, self._suspect = None, backend
        self._timer = asyncio.get_running_loop().call_later(GRACE, self._give_up)

    def _end_suspicion(self) -> None:
        self._suspect = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Drop what is queued: the backend still runs and takes no more input."""
        self._backend, self._is_refusing = self._suspect, True
        self._end_suspicion()
        self._drop_queue()
        if self._backend is not None:
            self._backend.reclaim()
        self.release()

    def _drop_queue(self) -> None:
        self._counts.messages_dropped += sum(messages for _, messages in self._queue)
        self._queue.clear()
        self._queued = 0


def _never() -> bool:
    return False
