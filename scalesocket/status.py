"""The visible state of a running site: counters of rooms, snapshots for metrics, API and CLI, and a read-only view for HTTP."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, fields
from typing import Protocol

from scalesocket.config.model import Site


@dataclass(slots=True)
class Counts:
    """What one room counted since it opened. Plain ints that hot paths add to; read at scrape time."""

    connections_total: int = 0
    """Websockets that joined."""
    messages_in: int = 0
    """Messages from clients."""
    bytes_in: int = 0
    """Payload bytes from clients."""
    messages_out: int = 0
    """Messages to clients, counted once for each client."""
    bytes_out: int = 0
    """Payload bytes to clients, counted once for each client."""
    records_out: int = 0
    """Records read from the backend."""
    messages_dropped: int = 0
    """Messages that were not delivered: bad JSON of a client, an invalid `_to`, or input for a backend that no longer reads."""
    slow_clients: int = 0
    """Clients closed because they did not read fast enough."""
    kicked: int = 0
    """Clients closed by the operation `kick`."""
    drained: int = 0
    """Clients closed gradually: by `stop`, `restart`, `drain`, a reload that removes the app, or a shutdown."""
    slow_dropped: int = 0
    """Messages left out for a slow client under `slow_client = "drop"`."""

    def add(self, other: "Counts") -> None:
        """Fold another room's numbers into these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class LastExit:
    """How the backend of an app that ended last did."""

    how: str
    """By `Exit.label`: an exit status, the name of a signal, or `closed` or `lost` for a connection."""
    at: float
    """Unix time."""
    room: str
    line: str | None
    """The last line of its standard error, cut to 200 characters. May hold a secret: for the owner of the site alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomStatus:
    """One room that can be joined."""

    name: str
    state: str
    """`starting`, `open` or `lingering`."""
    pid: int | None
    connections: int
    metadata: bytes | None
    """A JSON object, as the backend's last `_meta` record set it."""
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class AppStatus:
    """One app and its open rooms."""

    name: str
    mount: str
    """The URL path of its rooms: `/chat`, or `/` for the app at the root."""
    target: str
    """What its rooms run or connect to, in words; `pages` for an app without rooms."""
    rooms: tuple[RoomStatus, ...]
    connections: int
    rooms_total: int
    counts: Counts
    """Sums over all rooms, ended ones included."""
    backend_starts: int
    backend_failures: int
    """Starts that failed."""
    backend_crashes: int = 0
    """Backends that ended by failure, and not because the server stopped them."""
    backend_exits: Mapping[str, int]
    """By `Exit.label`."""
    last_exit: LastExit | None = None
    """The backend that ended last, in any room, also one that the server stopped; None if none has ended."""
    refusals: Mapping[str, int]
    """Upgrades and joins turned away, by reason: `bad_name`, `not_listed`, `origin`, `draining`, `room_full` …"""
    is_drained: bool = False
    """Whether an operator drained it, so that no client joins until an edit of the app."""
    has_rooms: bool = True
    """False for an app that is pages alone; it may still have rooms that were open before an edit took its target away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker process of a server that has several."""

    index: int
    """Its number, from 0, which its successor has, too."""
    pid: int | None
    """None between two processes."""
    state: str
    """`serving`, `starting`, or `silent`: it did not answer, and the numbers of its rooms are those of its last answer."""
    rooms: int
    connections: int
    restarts: int
    """Processes that have followed the first."""
    since: float | None
    """Unix time since when the process serves; None before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNodeStatus:
    """This server as a node of a cluster."""

    node: str
    cluster: str
    """The name of the cluster."""
    is_drained: bool
    """Whether an operator drained it: it opens no rooms until it is started again."""
    is_engine_up: bool
    """Whether the engine of the directory is connected."""
    lease_seconds_left: float
    """Until this node ends its rooms, unless the lease is renewed; 0 without a lease."""
    leases_lost: int
    owned: int
    """Rooms of this node in the directory."""
    held: int
    """Clients that wait until the directory knows the owner of their room."""
    claims: Mapping[str, int]
    """Claims of rooms by result: `won`, `owned` by another node, `recovering`, `unavailable`."""
    claim_seconds: float
    """The time that they took, together."""
    hand_overs: Mapping[str, int]
    """Clients handed over to other nodes by result: `taken`, `not_here`, `draining`, `unreachable` …"""
    hand_over_seconds: float
    arrivals: Mapping[str, int]
    """Connections of other nodes by result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """One node in the list of a cluster."""

    node: str
    address: str
    """Where other nodes reach it."""
    version: str
    state: str
    """`serving`, `draining`, or `lost`: its lease has ended."""
    rooms: int
    clients: int
    """As it told with its last renewal."""
    lease: float
    """Seconds that its lease has left; 0 if it has ended."""
    last_seen: float
    """Seconds since its last renewal."""
    is_here: bool
    """Whether it is the node that was asked."""
    answers: bool
    """Whether it answers the node that was asked. One that is lost may do so, if it cannot reach the engine."""
    problem: str | None
    """Why it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What became of a node that was forgotten."""

    lease: float
    """Seconds that its lease had left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """The running site."""

    apps: tuple[AppStatus, ...]
    connections: int
    is_draining: bool
    generation: int
    """1 for the site as started, plus one for each edit applied."""
    applied_at: float
    """Unix time of the last edit applied."""
    last_error: str | None
    """Why the newest text of the site file was not applied; None when it was. May quote the file: for its owner alone."""
    public_error: str | None
    """The same for everybody, or else the first of `warnings`: without paths, hints and values."""
    warnings: tuple[str, ...] = ()
    """Files of `auth` that are broken, each with the reason; their last valid contents stay in use."""
    site_file: str | None = None
    """The path of the site file; None for a site of the command line."""
    refusals: Mapping[str, int]
    """Turned away before an app was found: `bad_handshake`, `unknown_app`, `head_too_big`, `head_timeout` …"""
    workers: tuple[WorkerStatus, ...] = ()
    """The worker processes, by index; none if one process does everything."""
    cluster: OwnNodeStatus | None = None
    """This server as a node; None without `[cluster]`."""
    is_starting: bool = False
    """Whether the first process of some worker does not serve yet, or no worker serves at the moment."""


@dataclass(slots=True, kw_only=True)
class ReloadState:
    """How the running site came to be: kept by the reloader, shown by `/ready`, metrics and the command line."""

    generation: int = 1
    """1 for the site as started, plus one for each edit applied."""
    applied_at: float
    """Unix time of the start, or of the last edit applied."""
    last_error: str | None = None
    """Why the newest text of the site file was not applied; None when it was. May quote the file: for its owner alone."""
    public_error: str | None = None
    """The same for everybody, or else the first of `warnings`: without paths, hints and values."""
    warnings: tuple[str, ...] = ()
    """Files of `auth` that are broken, each with the reason; their last valid contents stay in use."""
    on_advance: Callable[[], None] | None = None
    """Called when an edit was applied."""
    _public_warning: str | None = None

    def note_warnings(self, warnings: tuple[str, ...], public: str | None) -> None:
        """An edit was applied, with these warnings; `public` is what everybody may know of them."""
        self.warnings, self._public_warning = warnings, public
        self.note_error(None, None)

    def advance(self, generation: int, applied_at: float) -> None:
        """Note that an edit was applied."""
        self.generation, self.applied_at = generation, applied_at
        self.note_error(None, None)
        if self.on_advance is not None:
            self.on_advance()

    def note_error(self, error: str | None, public: str | None) -> None:
        """An edit was applied (None), or refused for `error`; `public` is what everybody may know of that."""
        self.last_error, self.public_error = error, public or self._public_warning


class RoomView(Protocol):
    """A room that can be joined, as an overview reads it."""

    @property
    def clients(self) -> Sized:
        """The clients in the room."""

    def status(self) -> RoomStatus:
        """Take a snapshot."""


class PoolView(Protocol):
    """The open rooms of one app, as an overview reads them."""

    @property
    def rooms(self) -> Mapping[str, RoomView]:
        """The rooms that can be joined, by name."""

    @property
    def connections(self) -> int:
        """Clients in all rooms of the app."""


class HasSite(Protocol):
    """Knows the site in force, for code that needs no more of it than its settings."""

    @property
    def site(self) -> Site:
        """The site file in force; another object after an edit."""


class SiteView(HasSite, Protocol):
    """The part of a running site that is in this process. The gateway is one."""

    @property
    def reload_state(self) -> ReloadState:
        """The edit in force, and why a newer one was not applied."""

    @property
    def is_draining(self) -> bool:
        """Whether the server is shutting down."""

    @property
    def pools(self) -> Mapping[str, PoolView]:
        """The open rooms of each app, by its name."""

    def status(self) -> SiteStatus:
        """Take a snapshot. Takes a millisecond for a thousand rooms."""
