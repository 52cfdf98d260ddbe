"""A client: one websocket, the same for both lanes."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntFlag

from scalesocket.auth.identity import Identity
from scalesocket.config.model import App, Rate
from scalesocket.edge.ports import ClientRoom
from scalesocket.edge.rate import RateMeter
from scalesocket.errors import Close
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.handshake import Request, format_address


class Hold(IntFlag):
    """The reasons for which a client is not read. Reading resumes when none is left."""

    BACKEND = 1
    """The backend is behind, or has not started."""
    RATE = 2
    """The client exceeded its `rate`."""
    YIELD = 4
    """The client sent a lot at once; other clients are served before the rest is read, in a later event-loop iteration."""
    DISCONNECTED = 8
    """The connection is gone."""


class Client(ABC):
    """One websocket in a room. The lanes implement it; everything here is synchronous and none of it blocks.

    A lane reports to the room: `room.from_client(client, messages)`; `room.leave(client)` when the connection is lost or its
    closing handshake begins (calls may repeat); `room.congested(client)` and `room.drained(client)` when its unsent bytes pass
    the high-water mark and fall below the low-water mark.
    """

    __slots__ = (
        "allowance",
        "held",
        "id",
        "identity",
        "is_congested",
        "last_message_at",
        "last_ping_at",
        "last_received_at",
        "peer",
        "pong_excused_at",
        "query",
        "room",
        "throttle",
        "write",
    )

    id: ClientId
    room: ClientRoom
    identity: Identity | None
    """Who the client is; None in an app without `auth`."""
    peer: tuple[str, int] | None
    """Address and port of the peer; None on a unix socket."""
    query: str
    """The raw query string of the upgrade request."""
    is_congested: bool
    """True from `room.congested` to `room.drained`. Only then is `unsent` compared with `send_buffer`."""
    allowance: int
    """Unsent bytes allowed on top of `send_buffer`, because a long history was replayed and is still being sent."""
    last_received_at: float
    """When any byte last came from the peer, in the loop's time."""
    last_message_at: float
    """When the last message came, for `client_idle_timeout`; control frames do not count."""
    last_ping_at: float
    """When the last ping was sent, in the loop's time."""
    pong_excused_at: float
    """When a late pong was last excused: the peer was not read, or the ping had not left the server."""
    held: Hold
    """Why the client is not read; 0 while it is."""
    throttle: "Throttle | None"
    """Holds the client when it exceeds its `rate`; None without one. The lane reports messages to it."""
    write: Callable[[bytes], object] | None
    """Writes `Batch.frames` directly, so that a broadcast need not call `send`. None if the frames need more than a write:
    with compression, on the general lane, or while closing."""

    def __init__(self, request: Request, now: float) -> None:
        """Describe the peer that sent `request`; `Admission.join` sets `id`, `identity` and `room`."""
        self.identity = None
        self.peer = request.peer
        self.query = request.query
        self.is_congested = False
        self.allowance = 0
        self.last_received_at = self.last_message_at = self.last_ping_at = self.pong_excused_at = now
        self.held = Hold(0)
        self.throttle = None
        self.write = None

    @property
    def remote(self) -> str:
        """`ip:port` of the peer; empty on a unix socket."""
        return format_address(self.peer)

    def hold(self, reason: Hold) -> None:
        """Stop reading from the peer for `reason`, so that TCP pushes back. Calls may repeat."""
        if not self.held:
            self.pause_reading()
        self.held |= reason

    def release(self, reason: Hold) -> None:
        """Remove `reason`, and read again if no other is left. Calls may repeat."""
        if self.held:
            self.held &= ~reason
            if not self.held:
                self.resume_reading()

    def limit_rate(self, rate: Rate | None, now: float) -> None:
        """Limit the client to `rate`. If that has changed, a wait for the old rate ends."""
        throttle = self.throttle
        if rate != (throttle.rate if throttle is not None else None):
            if throttle is not None:
                throttle.end()
            self.throttle = Throttle(self, rate, now) if rate is not None else None

    @abstractmethod
    def send(self, batch: Batch) -> None:
        """Queue a batch; order is kept. Ignored once the client is closing."""

    @abstractmethod
    def close(self, close: Close) -> None:
        """Start the closing handshake, after what was sent before. Calls after the first are ignored."""

    @abstractmethod
    def abort(self) -> None:
        """Reset the connection without a closing handshake."""

    @abstractmethod
    def ping(self) -> None:
        """Send a ping."""

    @abstractmethod
    def apply(self, app: App) -> None:
        """Take on live changes of the app: limits, rate."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Stop reading from the peer; called by `hold`."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read from the peer again; called by `release`."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes queued for the peer that the kernel has not taken yet."""

    @property
    @abstractmethod
    def backlog(self) -> int:
        """Bytes queued for the peer, including those in the kernel as far as they are known."""

    @property
    @abstractmethod
    def delivered(self) -> int:
        """A number that grows while the peer takes bytes; for comparison with an earlier value."""


class Throttle:
    """Holds one client while it exceeds its `rate`."""

    __slots__ = ("_client", "_meter", "_timer")

    def __init__(self, client: Client, rate: Rate, now: float) -> None:
        """Measure `client` from `now`, in the loop's time."""
        self._client = client
        self._meter = RateMeter(rate, now)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate(self) -> Rate:
        """The rate in force."""
        return self._meter.rate

    def spend(self, messages: int, size: int, now: float) -> None:
        """Count messages and their `size` in bytes; hold the client if they exceed the rate."""
        wait = self._meter.spend(messages, size, now)
        if wait:
            self._client.hold(Hold.RATE)
            self._timer = asyncio.get_running_loop().call_later(wait, self._client.release, Hold.RATE)

    def end(self) -> None:
        """Stop holding the client: another rate applies."""
        self.cancel()
        self._client.release(Hold.RATE)

    def cancel(self) -> None:
        """Cancel the timer: the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
