"""What the directory knows, as data."""

from dataclasses import dataclass
from typing import NamedTuple


class RoomName(NamedTuple):
    """A room of an app."""

    app: str
    room: str

    @property
    def member(self) -> str:
        """As the keys of the engine write it. The name of an app has no colon."""
        return f"{self.app}:{self.room}"

    @classmethod
    def parse(cls, member: str) -> "RoomName":
        """Read what `member` wrote."""
        app, _, room = member.partition(":")
        return cls(app, room)


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """A node as it is now, and where other nodes connect to it."""

    node: str
    inc: str
    """The incarnation: new for each process, and after each lost lease."""
    advertise: str


@dataclass(frozen=True, slots=True)
class Won:
    """The room is this node's, which may open it with this fence."""

    fence: int


@dataclass(frozen=True, slots=True)
class Owned:
    """A node owns the room; `find` may name this one."""

    owner: NodeAddress
    fence: int


@dataclass(frozen=True, slots=True)
class Recovering:
    """The engine was restarted: rooms get no new owner until the old ones have reported theirs."""

    seconds: float
    """Until claims succeed, if nodes ask at least every tenth of a lease; until then the time goes slower."""


@dataclass(frozen=True, slots=True)
class Free:
    """The room has no owner."""


@dataclass(frozen=True, slots=True)
class Session:
    """The session of this node: its lease in the engine."""

    node: str
    inc: str
    epoch: str
    """The life of the engine in which it was opened or reported; the engine gets a new one when it is restarted or emptied."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Another process has a session under the name of this node."""

    advertise: str
    inc: str
    seconds: float
    """Until its lease ends, unless it is renewed."""
    ends: int
    """When, in microseconds of the directory's clock: another number is a renewal."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease was renewed."""

    is_reported: bool = False
    """The engine had lost the rooms, and has them again, but without their summaries."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The session has ended: expired, replaced or forgotten. All rooms may have other owners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a node reports with each renewal."""

    rooms: int = 0
    clients: int = 0
    is_draining: bool = False
    """It takes no new rooms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A node, as the directory knows it."""

    address: NodeAddress
    version: str
    load: Load
    owned: int
    """Rooms in the directory."""
    seconds_left: float
    """Of its lease; not positive if it is lost."""
    last_seen: float = 0.0
    """Seconds since its last renewal, by the clock of the engine."""

    @property
    def is_alive(self) -> bool:
        """Whether its rooms are its own."""
        return self.seconds_left > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the lobby shows of a room of this node."""

    name: RoomName
    fence: int
    state: str
    players: int
    metadata: bytes | None = None
    """A JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRoom:
    """A room of any node, as the lobby shows it."""

    name: RoomName
    node: str
    fence: int
    state: str
    created: float
    """Unix time of the engine."""
    players: int
    metadata: bytes | None
