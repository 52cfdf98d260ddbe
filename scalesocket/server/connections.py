"""The open connections of a server: how many there may be, and until when each must have sent its first request head."""

import asyncio
import math
from typing import Final, Protocol

import structlog

from scalesocket.admission.refusals import NO_DESCRIPTORS
from scalesocket.cleanup import logged_faults
from scalesocket.gateway import Gateway
from scalesocket.io.deadlines import Deadlines, HasDeadline
from scalesocket.io.descriptors import first_private, first_reserved
from scalesocket.io.poller import Poller
from scalesocket.placement.passages import Passages
from scalesocket.placement.placement import Placement
from scalesocket.server.hypercorn.server import HypercornServer

log = structlog.get_logger("connections")

HARD_CAP: Final = 1.5
"""Connections accepted, as a multiple of `max_connections`: more than the websockets, so that /health still answers."""

WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings that descriptors run out."""
SHORT_FOR: Final = 10.0
"""Seconds for which descriptors count as short after one of the reserve was used."""
DESCRIPTORS_HINT: Final = "raise the limit of open files (LimitNOFILE= of systemd), or lower max_connections and max_rooms"


class Connections:
    """All open connections of a server, and what each new one needs: the gateway, the general lane, the poller, the loop."""

    serves_websockets = True
    """Whether upgrades are admitted; otherwise the HTTP app answers them, too."""

    def __init__(self, gateway: Gateway, hypercorn: HypercornServer, poller: Poller) -> None:
        """Start without any. Websockets go to `gateway`, everything else to `hypercorn`; `poller` watches the sockets."""
        self.gateway = gateway
        self.hypercorn = hypercorn
        self.poller = poller
        self.loop = asyncio.get_running_loop()
        self.transports: set[asyncio.Transport] = set()
        """New connections, and websockets on the express lane. `hypercorn` counts those of the general lane."""
        self.paused: set[CanResume] = set()
        """Acceptors that wait for a free descriptor."""
        self.tls_handshakes: set[CanBeCancelled] = set()
        """Connections whose TLS handshake is under way."""
        self.websockets = 0
        """Websockets on the express lane whose connection is open, even if only for the closing handshake."""
        self.head_deadlines = HeadDeadlines(self.loop, lambda: gateway.site.server.handshake_timeout)
        self.first_reserved = first_reserved()
        """The lowest descriptor that no websocket keeps; see `io/descriptors.py`."""
        self.placement: Placement | None = None
        """Where rooms live, if not all of them in this process."""
        self.passages = Passages()
        """Connections that are served by the process that has their room, and pass through this one."""
        self._is_full = False
        self.is_short = False
        """Whether descriptors run out, or did so within the last seconds."""
        self._most = 0
        """Connections for which there are descriptors, if `is_short`."""
        self._short_until = 0.0
        self._warned_at = -math.inf
        self._no_websockets = asyncio.Event()

    def has_capacity(self) -> bool:
        """Whether one more connection may be accepted. Logs when the limit is reached."""
        limit = self.gateway.site.server.max_connections
        is_full = limit is not None and self._count() >= limit * HARD_CAP
        if is_full and not self._is_full:
            log.warning("too many connections", limit=limit, hint="new ones are cut until others have ended")
        self._is_full = is_full
        return not is_full

    def may_open(self, fd: int) -> bool:
        """Decide on a connection with this new descriptor: whether there is room for it. Otherwise it is counted as refused."""
        if (self.is_short or fd >= self.first_reserved) and not self.may_stay(fd):
            self.gateway.refusals[NO_DESCRIPTORS.reason] += 1
            return False
        if not self.has_capacity():
            self.gateway.refusals["too_many_connections"] += 1
            return False
        return True

    def may_stay(self, fd: int) -> bool:
        """Whether an accepted connection may stay, when descriptors run out or did so lately.

        With a descriptor of the reserve it gets one response, no websocket. When the part of the reserve for connections is in
        use, the connection that has waited longest for its first request is cut for each new one. So silent peers, however many,
        keep no client from a response.
        """
        now, number = self.loop.time(), self._count()
        if fd >= self.first_reserved:  # all descriptors below it are in use
            most = number + max(0, self._first_kept() - fd)
            self._most = min(most, self._most) if self.is_short else most  # `number` may include connections that were just cut
            if now - self._warned_at >= WARNING_INTERVAL:
                self._warned_at = now
                log.warning("file descriptors run out", hint=DESCRIPTORS_HINT)
            self.is_short, self._short_until = True, now + SHORT_FOR
        elif now >= self._short_until:
            self.is_short = False
            return True
        return number < self._most or self.head_deadlines.cut_oldest()

    def must_make_room(self) -> bool:
        """Whether the next connection has to wait until the one that was cut for it is closed.

        Otherwise it would take a descriptor that no connection keeps, which an operator may need at this moment.
        """
        return self.is_short and self._count() >= self._most and self.head_deadlines.cut_oldest()

    def _first_kept(self) -> int:
        """Return the lowest descriptor that no connection keeps."""
        return first_private()

    def _count(self) -> int:
        return len(self.transports) + len(self.tls_handshakes) + self.hypercorn.open_connections

    def forget(self, transport: asyncio.Transport) -> None:
        """Remove a connection that was lost, or that the general lane took over."""
        self.transports.discard(transport)
        if self.paused:
            self._resume_soon()

    def forget_websocket(self, transport: asyncio.Transport) -> None:
        """Remove the connection of a websocket that was lost."""
        self.forget(transport)
        self.websockets -= 1
        if not self.websockets:
            self._no_websockets.set()

    def _resume_soon(self) -> None:
        """Let paused acceptors go on when the connection that is being lost has released its descriptor."""
        for acceptor in self.paused:
            self.loop.call_soon(acceptor.resume)

    async def wait_no_websockets(self) -> None:
        """Wait until no websocket of the express lane is left, here or on its way through. New connections are not waited for."""
        while self.websockets:
            self._no_websockets.clear()
            await self._no_websockets.wait()

    def cut_all(self) -> None:
        """Abort every connection that the general lane does not have."""
        self.passages.cut_all()
        for transport in tuple(self.transports):
            with logged_faults("cutting a connection"):
                transport.abort()
        for handshake in tuple(self.tls_handshakes):
            with logged_faults("cutting a connection"):
                handshake.cancel()

    def close(self) -> None:
        """Abort every connection and stop the timer."""
        self.cut_all()
        self.head_deadlines.close()


class CanResume(Protocol):
    """An acceptor that waits for a free descriptor."""

    def resume(self) -> None:
        """Accept again, if it still waits."""


class CanBeCancelled(Protocol):
    """A connection whose TLS handshake is under way."""

    def cancel(self) -> None:
        """End the connection."""


class WaitsForHead(HasDeadline, Protocol):
    """A connection that waits for its first request head."""

    def cut(self) -> None:
        """Abort the connection: its descriptor is needed."""


class HeadDeadlines(Deadlines[WaitsForHead]):
    """Times out connections whose first request head does not arrive within `handshake_timeout`."""

    def cut_oldest(self) -> bool:
        """Cut the connection that has waited longest; False if none waits."""
        oldest = next(iter(self._started_at), None)
        if oldest is None:
            return False
        del self._started_at[oldest]
        oldest.cut()
        return True
