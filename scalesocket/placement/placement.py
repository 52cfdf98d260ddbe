"""Where a room lives: asked for each upgrade that is admitted."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Final, Protocol

from scalesocket.placement.facts import Facts
from scalesocket.placement.rendezvous import Rendezvous
from scalesocket.placement.stream import Stream


class Here(Enum):
    """The place of a room that this process owns."""

    HERE = "here"


HERE: Final = Here.HERE


OnSent = Callable[[bool | Awaitable[bool]], None]
"""Receives whether a connection was sent, or an awaitable of that."""


class Owner(Protocol):
    """Another process that owns a room."""

    @property
    def is_behind(self) -> bool:
        """Whether connections wait until it takes more, or it takes none."""

    def hand_over(self, facts: Facts, fd: int) -> bool | Awaitable[bool]:
        """Send it a connection. False: it cannot take one now.

        The caller keeps its own descriptor, and may close it as soon as this has returned. It closes the connection only if the
        result is False. Cancelling the result withdraws the connection, unless it was sent.
        """

    def post(self, facts: Facts, fd: int, on_sent: OnSent) -> None:
        """Send it a connection together with others of this event-loop iteration, as that is cheaper.

        The caller keeps its own descriptor open until `on_sent` is called with what `hand_over` would return.
        """


class Begun(Protocol):
    """A connection to a remote owner that is being opened."""

    def cancel(self) -> None:
        """Close it. Calls may repeat, and after its end do nothing but close what it has opened."""


class RemoteOwner(ABC):
    """An owner on another machine: the client's bytes pass through this process."""

    def begin(self, facts: Facts, *, patience: float, done: Callable[[Stream | None], None]) -> Begun | None:
        """Begin what `connect` does, without a task, which would cost more than the rest.

        `done` is called later, with the stream, or with None if `connect` has to go on. None: `connect` has to do all of it.
        """
        return None

    @abstractmethod
    async def connect(self, facts: Facts, *, patience: float) -> Stream | Here | None:
        """Let it serve a client; return a stream for the client's bytes, which the caller owns.

        HERE: this process owns the room by now. None: no process can take the client now. `patience`: seconds for which
        the owner may read nothing from the client.
        """


Place = Here | Owner | RemoteOwner


class Placement(Protocol):
    """Knows where rooms live."""

    def locate(self, app: str, room: str) -> Place | Awaitable[Place]:
        """Return where a room lives, whether or not it is open."""


class WorkerPlacement:
    """The workers of one machine: the owner of a room is a hash of its name."""

    def __init__(self, index: int, rendezvous: Rendezvous, owners: Sequence[Owner]) -> None:
        """Locate rooms for the worker `index`. `owners`: all workers by index; this one's entry is not used."""
        self._owner_of = rendezvous.owner_of
        self._places: tuple[Place, ...] = tuple(HERE if at == index else owner for at, owner in enumerate(owners))
        if len(self._places) != rendezvous.workers or not 0 <= index < rendezvous.workers:
            raise ValueError("there must be one owner for each worker")

    def locate(self, app: str, room: str) -> Place:
        """Return where a room lives."""
        return self._places[self._owner_of(app, room)]
