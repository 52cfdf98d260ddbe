"""The messages between supervisor and workers about the site: what it shows, operations on it, and tickets.

Those that ask what the site shows go both ways: the supervisor asks a worker for its own rooms, and a worker asks the supervisor
for those of all workers.
"""

import msgspec

from scalesocket.auth.identity import Identity
from scalesocket.control.messages import Request
from scalesocket.status import RoomStatus, SiteStatus


class GetStatus(msgspec.Struct, frozen=True):
    """The answer is a SiteStatus."""


class GetRooms(msgspec.Struct, frozen=True):
    """The answer is the RoomStatus of each room of an app."""

    app: str


class GetRoom(msgspec.Struct, frozen=True):
    """The answer is a FoundRoom."""

    app: str
    room: str


class FoundRoom(msgspec.Struct, frozen=True):
    """None: there is no such room."""

    room: RoomStatus | None


class GetSummaries(msgspec.Struct, frozen=True):
    """The answer is a RoomsSummary by app."""

    apps: tuple[str, ...]
    shown: int


class GetReadiness(msgspec.Struct, frozen=True):
    """To the supervisor: the answer is its Readiness."""


class LastStatus(msgspec.Struct, frozen=True):
    """From a worker that ends: its totals, which the supervisor keeps."""

    status: SiteStatus


class Run(msgspec.Struct, frozen=True):
    """To a worker: carry out an operation on its rooms; the answer is a Ran. The supervisor has logged who asks."""

    request: Request


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation names is not in this worker (`lookup.NotFoundError`)."""

    text: str
    certainty: int
    word: str = ""
    near: str | None = None


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an operation in one worker: a result, or an error."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    """Of the type that the table of operations says, as msgpack."""
    held: int | None = None
    """The number of a tail (`ReadTail`), or of rooms that end (`WaitEnded`), which the worker keeps until `Release`."""
    missing: Missing | None = None
    error: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return self.missing is None and self.error is None


class WaitEnded(msgspec.Struct, frozen=True):
    """To a worker: wait at most so many seconds for the end of rooms; the answer is an Outcome."""

    held: int
    seconds: float


class ReadTail(msgspec.Struct, frozen=True):
    """To a worker: wait for messages of a tail; the answer is a TailLines."""

    held: int


class TailLines(msgspec.Struct, frozen=True):
    """Some events of a tail."""

    lines: bytes | None
    """None at its end."""


class Release(msgspec.Struct, frozen=True):
    """To a worker: end a tail, or a wait for rooms."""

    held: int


class IssueTicket(msgspec.Struct, frozen=True, kw_only=True):
    """To the supervisor: the answer is an IssuedTicket."""

    identity: Identity
    app: str
    room: str
    address: str | None


class IssuedTicket(msgspec.Struct, frozen=True):
    """None: there are too many."""

    ticket: str | None


class RedeemTicket(msgspec.Struct, frozen=True, kw_only=True):
    """To the supervisor: use a ticket up; the answer is a Redeemed."""

    ticket: str
    app: str
    room: str

    def __repr__(self) -> str:
        """Show no credential."""
        return f"RedeemTicket({self.app!r}, {self.room!r})"


class Redeemed(msgspec.Struct, frozen=True, kw_only=True):
    """Who the client is, or why it is refused."""

    identity: Identity | None = None
    denial: str | None = None
    """The reason of a Denial."""
