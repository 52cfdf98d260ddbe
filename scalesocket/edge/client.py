"""A client: one websocket as its room sees it, whichever lane it came by."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntFlag

from scalesocket.config.model import App, Rate
from scalesocket.edge.ports import ClientRoom
from scalesocket.edge.rate import RateMeter
from scalesocket.errors import Close
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.handshake import Request, format_address


class Hold(IntFlag):
    """Why nothing is read from a client for now. Reading goes on when no reason is left."""

    BACKEND = 1
    """The backend is behind, or not there yet."""
    RATE = 2
    """The client sent more than its `rate`."""
    YIELD = 4
    """The client sent a lot at once; other clients are served before the rest is read, in a later event-loop iteration."""
    DISCONNECTED = 8
    """The connection is gone."""


class Client(ABC):
    """One websocket in a room. The lanes implement it; everything here is synchronous and none of it blocks.

    A lane tells the room what happens: `room.from_client(client, messages)`; `room.leave(client)` when the websocket is
    gone or its closing handshake begins (calls may repeat); `room.congested(client)` and `room.drained(client)` when
    its unsent bytes pass the high-water mark and fall below the low one.
    """

    __slots__ = (
        "allowance",
        "held",
        "id",
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
    peer: tuple[str, int] | None
    """Address and port of the peer; None on a unix socket."""
    query: str
    """The raw query string of the upgrade request."""
    is_congested: bool
    """True from `room.congested` to `room.drained`; then `unsent` decides whether the client is too slow."""
    allowance: int
    """Unsent bytes forgiven on top of `send_buffer`: a long history was replayed and is still on its way."""
    last_received_at: float
    """When any byte last came from the peer, in the loop's time."""
    last_message_at: float
    """When the last message came (control frames do not count), for `client_idle_timeout`."""
    last_ping_at: float
    """When the last ping was sent, in the loop's time."""
    pong_excused_at: float
    """When a late pong was last no fault of the peer: what it sends was not read, or what it was sent had not left."""
    held: Hold
    """Why reading is paused; 0 while it is not."""
    throttle: "Throttle | None"
    """Holds the client when it says more than its `rate`; None without one. The lane tells it what was said."""
    write: Callable[[bytes], object] | None
    """Takes `Batch.frames` as they are: a fan-out's short way past `send`. None where there is no such way: compressed, on
    the general lane, or closing."""

    def __init__(self, request: Request, now: float) -> None:
        """Describe the peer that sent `request`; `id` and `room` come with `Admission.join`."""
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
        """Take `reason` away, and read again if it was the last. Calls may repeat."""
        if self.held:
            self.held &= ~reason
            if not self.held:
                self.resume_reading()

    def limit_rate(self, rate: Rate | None, now: float) -> None:
        """Measure what the client says by `rate`, if that is another one than before: then it waits for the old one no more."""
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
        """Cut the connection without a closing handshake: the peer is gone, or must not cost more time."""

    @abstractmethod
    def ping(self) -> None:
        """Send a ping."""

    @abstractmethod
    def apply(self, app: App) -> None:
        """Take on live changes of the app: limits, rate."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Read no more from the peer; `hold` calls it."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read from the peer again; `release` calls it."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes queued for the peer that the kernel has not taken yet."""

    @property
    @abstractmethod
    def backlog(self) -> int:
        """Bytes queued for the peer that were not sent yet, those in the kernel included as far as they are known."""

    @property
    @abstractmethod
    def delivered(self) -> int:
        """A number that grows while bytes go on towards the peer; for comparing with an earlier one."""


class Throttle:
    """Holds one client for as long as its `rate` asks for."""

    __slots__ = ("_client", "_meter", "_timer")

    def __init__(self, client: Client, rate: Rate, now: float) -> None:
        """Measure `client` from `now`, in the loop's time."""
        self._client = client
        self._meter = RateMeter(rate, now)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate(self) -> Rate:
        """What the client may say."""
        return self._meter.rate

    def spend(self, messages: int, size: int, now: float) -> None:
        """Count so many messages with so many bytes; hold the client if they were too many."""
        wait = self._meter.spend(messages, size, now)
        if wait:
            self._client.hold(Hold.RATE)
            self._timer = asyncio.get_running_loop().call_later(wait, self._client.release, Hold.RATE)

    def end(self) -> None:
        """Hold the client no more."""
        self.cancel()
        self._client.release(Hold.RATE)

    def cancel(self) -> None:
        """Let nothing run any more: the client is gone."""
        if self._timer is not None:
            self._timer.cancel()
