"""The worker context that Hypercorn gets, one for each connection: when to stop, and how long to sleep."""

import asyncio
import math
from typing import Final

import anyio
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext

from scalesocket.config.model import App

STALL_TIMEOUT: Final = 10.0
"""Seconds for which a peer that has ended its side may take no unsent bytes, unless an app says otherwise."""
SECOND_CHECK: Final = 0.5
"""Seconds after which a websocket of a lost connection is checked again: messages already received may delay its end."""


class ConnectionContext(WorkerContext):
    """Hypercorn's context for one connection."""

    def __init__(self, stopped: EventWrapper) -> None:
        """`stopped`: set when the server stops; then `terminated.set` must be called as well."""
        super().__init__(None)
        self.terminated = IdleEvent(stopped)
        self.lost = asyncio.Event()
        """Set when the peer has closed, or ended its side."""
        self.stall_timeout = STALL_TIMEOUT
        self.started_at = asyncio.get_running_loop().time()
        self.is_trusted = False
        """Whether it has sent a request with a credential of the operator."""
        self._ping_interval = math.inf

    def trust(self) -> None:
        """Keep the connection when others are cut for new ones."""
        self.is_trusted = True

    def add_websocket(self, app: App) -> None:
        """Use the settings of a new websocket: the shortest `ping_interval` of the connection, and its `stall_timeout`."""
        self._ping_interval = min(self._ping_interval, app.ping_interval)
        self.stall_timeout = app.stall_timeout

    async def sleep(self, wait: float) -> None:  # type: ignore[override]
        """Sleep between two pings of a websocket. The end of the connection wakes it, else Hypercorn would keep the websocket."""
        wait = self._ping_interval if self._ping_interval < math.inf else wait
        if self.lost.is_set():  # woken once already, and the websocket still has received messages to deliver
            await asyncio.sleep(min(wait, SECOND_CHECK))
            return
        with anyio.move_on_after(wait):
            await self.lost.wait()


class IdleEvent(EventWrapper):
    """The event that Hypercorn waits for on an idle connection: set when the server stops, and also when the peer has left.

    Without the second case a connection that its peer closed after a request would keep its descriptor for the whole keep-alive
    time. `is_set` is true only when the server stops.
    """

    def __init__(self, stopped: EventWrapper) -> None:
        """`stopped`: set when the server stops; then `set` must be called as well."""
        super().__init__()
        self._stopped = stopped
        if stopped.is_set():
            self._event.set()

    def is_set(self) -> bool:
        """Whether the server stops."""
        return self._stopped.is_set()


async def wake_idle(event: object) -> None:
    """Wake what waits for an `IdleEvent`. The events of a stock Hypercorn are left alone."""
    if isinstance(event, IdleEvent):
        await event.set()
