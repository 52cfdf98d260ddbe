"""The one task of a room, which its pool starts: it starts, restarts and stops the room's backends.

Everything that waits for a backend is here; what a room does without waiting is in `Room`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import anyio
import structlog

from scalesocket.backends.backend import Backend, Exit, Receiver
from scalesocket.config.model import App
from scalesocket.errors import BACKEND_ENDED, BackendError, Close, CloseCode
from scalesocket.rooms.iteration_limit import IterationLimit
from scalesocket.rooms.restart import RestartPolicy
from scalesocket.rooms.room import Room

log = structlog.get_logger("room")

SHORTEST_DRAIN: Final = 0.1
"""Seconds, at least, to read what is left in the pipe of a backend that has ended."""

OpenBackend = Callable[[App, Mapping[str, str], str, Receiver], Awaitable[Backend]]
"""Opens every backend of every room: app, environment, room, receiver. Raises BackendError."""


class BackendObserver(Protocol):
    """What a lifecycle reports about the backends of its room."""

    def backend_starts(self) -> None:
        """Count the start of a backend."""

    def backend_start_failed(self) -> None:
        """Count a start that failed."""

    def backend_crashed(self) -> None:
        """Count a backend that ended by failure, and not because the server stopped it."""

    def backend_exited(self, room: Room, end: Exit) -> None:
        """Count and keep how a backend of `room` ended."""


class Lifecycle:
    """One room from start to end: it waits for its predecessor, then runs one backend after the other.

    The room does not refer to it, so that both are freed at once at the end; `Room.stop` reaches it by a cancel scope.
    """

    __slots__ = (
        "_environment",
        "_is_given_up",
        "_observer",
        "_open_backend",
        "_predecessor",
        "_restarts",
        "_stop_limit",
        "room",
    )

    def __init__(
        self,
        room: Room,
        *,
        environment: Mapping[str, str],
        observer: BackendObserver,
        open_backend: OpenBackend,
        stop_limit: IterationLimit,
        predecessor: Room | None = None,
    ) -> None:
        """Run `room`, beginning when its predecessor of the same name has ended.

        `stop_limit` bounds how many backends begin to stop in one event-loop iteration.
        """
        self.room = room
        self._environment = environment
        self._observer = observer
        self._open_backend = open_backend
        self._stop_limit = stop_limit
        self._predecessor = predecessor
        self._restarts = RestartPolicy()
        self._is_given_up = False
        """Whether the last backend failed once too often."""

    async def run(self) -> None:
        """Run the room from start to end. When this returns, the room has ENDED."""
        try:
            if self._predecessor is not None:
                await self._predecessor.wait_ended()
                self._predecessor = None
                self.room.predecessor_ended()
            await self._serve()
        finally:
            self.room.end()

    async def _serve(self) -> None:
        """Run one backend after the other, as `restart` says, until the room is stopped."""
        room, delay = self.room, 0.0
        while not room.is_stopped:
            with anyio.CancelScope() as room.scope:
                if delay:
                    await anyio.sleep(delay)
                delay = await self._run_backend()

    async def _run_backend(self) -> float:
        """Run one backend; return the delay before the next one, or stop the room if there is none."""
        room = self.room
        self._observer.backend_starts()
        try:
            backend = await self._open_backend(room.app, self._environment, room.name, room.output)
        except BackendError as error:
            self._observer.backend_start_failed()
            close = Close(CloseCode.BACKEND_FAILED, str(error))
            delay = self._restart_delay(is_success=False)
        else:
            crash = None
            try:
                room.backend_began(backend)
                end = await backend.wait_exit()
                close = BACKEND_ENDED if end.status == 0 else Close(_code(end), str(end))
                if not end.is_success:
                    self._observer.backend_crashed()
                    crash = close.reason
                delay = self._restart_delay(is_success=end.is_success)
                if delay is None:
                    room.backend_finished()
                else:
                    room.backend_restarts()
                if await self._drain(backend):
                    room.output.flush()
                    if delay is None:
                        room.expel_all(close)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop_limit.wait()
                    end = await backend.stop(signal=room.app.stop_signal, timeout=room.app.stop_timeout)
                room.output.flush()
                room.detach()
                self._observer.backend_exited(room, end)
                if crash is not None:  # logged last, so that the status shows it by then
                    log.warning("backend ended", app=room.app.name, room=room.name, pid=backend.pid, reason=crash)
        self._log_restart(close, delay)
        if delay is None:
            room.stop(close)
            return 0.0
        return delay

    async def _drain(self, backend: Backend) -> bool:
        """Deliver the rest of an ended backend's output; return False if a process that it left behind still holds it open.

        The wait ends after `stop_timeout`. While the output is paused for slow clients, it goes on as long as output that the
        backend itself has written is unread; the slow clients' policy bounds that.
        """
        room, timeout = self.room, max(self.room.app.stop_timeout, SHORTEST_DRAIN)
        own = sum(backend.output)
        while True:
            was_paused = room.is_output_paused
            with anyio.move_on_after(timeout) as scope:
                await backend.wait_drained()
            if not scope.cancelled_caught:
                return True
            if backend.output[0] >= own or not (was_paused or room.is_output_paused):
                return False

    def _restart_delay(self, *, is_success: bool) -> float | None:
        """Seconds until the next backend. None for no other: `restart` says so, there are no clients, or it failed too often."""
        room = self.room
        self._is_given_up = False
        if (room.app.restart == "on-failure" and is_success) or not room.clients or not room.may_restart:
            return None
        delay = self._restarts.decide(asyncio.get_running_loop().time())
        self._is_given_up = delay is None
        return delay

    def _log_restart(self, close: Close, delay: float | None) -> None:
        """Log what was decided by `_restart_delay`, after the log has the end of the backend."""
        app, room = self.room.app.name, self.room.name
        if delay is not None:
            log.warning("backend restart scheduled", app=app, room=room, reason=close.reason, seconds=round(delay, 3))
        elif self._is_given_up:
            log.error("backend given up", app=app, room=room, reason=close.reason)


def _code(end: Exit) -> CloseCode:
    return CloseCode.NORMAL if end.is_success else CloseCode.BACKEND_FAILED
