"""The deadlines of one room and of its backend. Those of its clients are a matter of each connection: `edge/keepalive.py`."""

import asyncio
from collections.abc import Callable
from typing import Final

from scalesocket.config.model import App
from scalesocket.errors import BACKEND_ENDED, LIFETIME_REACHED, Close

CHECKS: Final = 4
"""Checks of the deadlines in the length of the shortest."""


class Deadlines:
    """Stops one room when its time is up, and notices when its backend no longer reads.

    `idle_timeout` and `max_lifetime` are timers. `stall_timeout` moves with every message, so `is_stalled` is called
    at intervals by the sweep.
    """

    __slots__ = ("_app", "_idle_timer", "_lifetime_timer", "_opened_at", "_progress_at", "_stop", "_taken")

    def __init__(self, app: App, stop: Callable[[Close], None]) -> None:
        """Call `stop` when a deadline of `app` passes."""
        self._app = app
        self._stop = stop
        self._opened_at: float | None = None
        self._taken = 0
        """Bytes of input that the backend had taken at the last check."""
        self._progress_at = 0.0
        """When a check last found that it takes input, or need not."""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._lifetime_timer: asyncio.TimerHandle | None = None

    def begin(self, now: float) -> None:
        """Begin with a new backend. The lifetime of the room begins with the first one."""
        self._taken, self._progress_at = 0, now
        if self._opened_at is None:
            self._opened_at = now
            self._start_lifetime()

    def is_stalled(self, now: float, *, written: int, unsent: int, is_output_paused: bool) -> bool:
        """Whether input has waited for `stall_timeout` while the backend took none of it.

        `written`: bytes of input given to the backend, of which it has not taken `unsent`. While its output is paused, the
        backend may be blocked by us and is not stalled.
        """
        taken = written - unsent
        if not unsent or taken != self._taken or is_output_paused:
            self._taken, self._progress_at = taken, now
        return now - self._progress_at >= self._app.stall_timeout

    def apply(self, app: App) -> None:
        """Take on live changes of the app. An idle timeout that runs starts anew."""
        self._app = app
        if self._idle_timer is not None:
            self.start_idle()
        self._start_lifetime()

    def start_idle(self) -> None:
        """Stop the room in `idle_timeout`, unless `stop_idle` comes first."""
        self.stop_idle()
        self._idle_timer = asyncio.get_running_loop().call_later(self._app.idle_timeout, self._stop, BACKEND_ENDED)

    def stop_idle(self) -> None:
        """Cancel the idle timeout: a client joined. Calls may repeat."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def end(self) -> None:
        """Cancel all timers: the room has ended."""
        self.stop_idle()
        self._stop_lifetime()

    def _start_lifetime(self) -> None:
        self._stop_lifetime()
        lifetime = self._app.max_lifetime
        if lifetime is not None and self._opened_at is not None:
            loop = asyncio.get_running_loop()
            self._lifetime_timer = loop.call_at(self._opened_at + lifetime, self._stop, LIFETIME_REACHED)

    def _stop_lifetime(self) -> None:
        if self._lifetime_timer is not None:
            self._lifetime_timer.cancel()
            self._lifetime_timer = None


def find_check_interval(app: App) -> float:
    """Return the seconds between two checks of the deadlines of an app, so that each is noticed soon enough."""
    deadlines = (app.ping_interval, app.ping_timeout, app.stall_timeout, app.client_idle_timeout or app.ping_interval)
    return min(1.0, max(0.01, min(deadlines) / CHECKS))
