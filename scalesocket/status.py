"""What can be seen of a running site: the numbers rooms count, and the snapshots that metrics, API and CLI read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


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
    """Messages nobody got: bad JSON from a client, a wrong `_to`, or input for a backend that no longer reads."""
    slow_clients: int = 0
    """Clients closed because they did not read fast enough."""
    slow_dropped: int = 0
    """Messages left out for a slow client under `slow_client = "drop"`."""

    def add(self, other: "Counts") -> None:
        """Fold another room's numbers into these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


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
    refusals: Mapping[str, int]
    """Upgrades and joins turned away, by reason: `bad_name`, `not_listed`, `origin`, `draining`, `room_full` …"""
    has_rooms: bool = True
    """False for an app that is pages alone; it may still have rooms that were open before an edit took its target away."""


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
    """The same for everybody: without paths, hints and values."""
    refusals: Mapping[str, int]
    """Turned away before an app was found: `bad_handshake`, `unknown_app`, `head_too_big`, `head_timeout` …"""


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
    """The same for everybody: without paths, hints and values."""

    def note_error(self, error: str | None, public: str | None) -> None:
        """An edit was applied (None), or refused for `error`; `public` is what everybody may know of that."""
        self.last_error, self.public_error = error, public
