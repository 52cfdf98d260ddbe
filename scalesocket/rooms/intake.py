"""A room's input on its way to the backend: given to it, or waiting for one."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from scalesocket.backends.backend import Backend
from scalesocket.edge.client import Client, Hold

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room

MAX_WAITING: Final = 256 * 1024
"""Bytes of input that wait for a starting backend before its clients are read no more."""
MAX_BEHIND: Final = 16 * 1024 * 1024
"""Bytes that wait, for a backend or in its pipe, before nobody joins any more: whoever comes brings a little more with him."""
GRACE: Final = 1.5
"""Seconds in which a backend that takes no more input may turn out to have ended: three times what it takes to see that."""


class Membership(bytes):
    """A join or leave record. It is for one backend: the next one is told anew who is there."""

    __slots__ = ()


class Intake:
    """Gives one room's input to its backend, in order, and has the clients wait when it must.

    Without a backend, input waits for the next one. A backend that refuses input has most likely ended, which is not known
    yet: if another one may follow, input waits for that as well, for `GRACE` seconds.
    """

    __slots__ = (
        "_backend",
        "_doubted",
        "_is_deaf",
        "_is_holding",
        "_room",
        "_size",
        "_timer",
        "_waiting",
        "written",
    )

    def __init__(self, room: "Room") -> None:
        """Take the input of `room`, whose first backend has not begun yet."""
        self._room: Room | None = room
        self._backend: Backend | None = None
        self._doubted: Backend | None = None
        """The backend that refused input and has, as far as is known, not ended."""
        self._is_deaf = False
        """The backend refuses input and lives on."""
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[bytes, int]] = []  # each with the number of messages in it
        self._size = 0
        self._is_holding = False
        self.written = 0
        """Bytes given to the running backend."""

    @property
    def unsent(self) -> int:
        """Bytes that the backend was given and has not taken yet."""
        return self._backend.unsent if self._backend is not None else 0

    @property
    def is_behind(self) -> bool:
        """Whether so much waits that nobody else should come."""
        return self._size > MAX_BEHIND or self.unsent > MAX_BEHIND

    def write(self, records: bytes, messages: int = 0) -> bool:
        """Give input to the backend, or let it wait for one; False if nobody will ever take it.

        `messages`: how many of the clients' are in it, to count them should nobody take them after all.
        """
        if self._backend is not None:
            self.written += len(records)
            if self._backend.write(records):
                return True
            if self._is_deaf or self._room is None or not self._room.may_begin_again:
                self._backend.reclaim()  # what it left is for nobody
                return False
            self._doubt(self._backend)
        if self._room is None:
            return False
        if records:
            self._waiting.append((records, messages))
            self._size += len(records)
            if self._size > MAX_WAITING and not self._is_holding:
                self.hold(True)
        return True

    def tell(self, record: bytes) -> None:
        """Give the backend a join or leave record, unless it is empty. In doubt none: the next backend is told who is there."""
        if record and self._doubted is None:
            self.write(Membership(record))

    def admit(self, client: Client) -> None:
        """Have a new client wait if all do."""
        if self._is_holding:
            client.hold(Hold.BACKEND)

    def hold(self, is_held: bool) -> None:
        """Read the clients no more, or again."""
        self._is_holding = is_held
        if self._room is None:
            return
        self._room.hold_clients(is_held)

    def begin(self, backend: Backend) -> None:
        """Give a new backend what has waited for it, and all that comes."""
        self._end_doubt()
        self._backend, self._is_deaf = backend, False
        self.written = 0
        waiting, self._waiting, self._size = self._waiting, [], 0
        self.hold(False)
        for records, messages in waiting:  # piece by piece, so that few are lost if it ends while it takes them
            if not self.write(records, messages) and self._room is not None:
                self._room.counts.messages_dropped += messages

    def begin_again(self, joins: Sequence[bytes]) -> None:
        """The backend has ended: let input wait for the next one, which hears `joins` first, then what the last one left."""
        backend = self._backend or self._doubted
        left = backend.reclaim() if backend is not None else []
        self._end_doubt()
        self._backend = None
        waiting = [*((piece, 0) for piece in left), *self._waiting]
        messages = [(piece, count) for piece, count in waiting if type(piece) is not Membership]
        self._waiting = [*((Membership(join), 0) for join in joins if join), *messages]
        self._size = sum(len(piece) for piece, _ in self._waiting)

    def detach(self) -> None:
        """The backend is gone."""
        self._end_doubt()
        self._backend = None

    def end(self) -> None:
        """Nobody takes input any more. Messages that still wait for a backend are counted as dropped."""
        self.detach()
        self._drop_waiting()
        self._room = None

    def _doubt(self, backend: Backend) -> None:
        self._backend, self._doubted = None, backend
        self._timer = asyncio.get_running_loop().call_later(GRACE, self._give_up)

    def _end_doubt(self) -> None:
        self._doubted = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """It lives on and wants no input: what waits was for nobody, and so is all that comes."""
        self._backend, self._is_deaf = self._doubted, True
        self._end_doubt()
        self._drop_waiting()
        if self._backend is not None:
            self._backend.reclaim()
        self.hold(False)

    def _drop_waiting(self) -> None:
        if self._room is not None:
            self._room.counts.messages_dropped += sum(messages for _, messages in self._waiting)
        self._waiting.clear()
        self._size = 0
