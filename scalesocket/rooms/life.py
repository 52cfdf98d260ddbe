"""The life of a room: the one task it has, which its pool starts and which owns the room's backend.

Everything that waits for a backend is here; what a room does without waiting is in `Room`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
import structlog

from scalesocket.backends.backend import Backend, Exit, Receiver
from scalesocket.config.model import App
from scalesocket.errors import BACKEND_ENDED, BackendError, Close, CloseCode
from scalesocket.rooms.keeper import Keeper
from scalesocket.rooms.restart import RestartPolicy
from scalesocket.rooms.room import Room, State
from scalesocket.rooms.turnstile import Turnstile

log = structlog.get_logger("room")

LAST_WORDS: Final = 0.1
"""Seconds, at least, to read what is left in the pipe of a backend that is gone."""

OpenBackend = Callable[[App, Mapping[str, str], str, Receiver], Awaitable[Backend]]
"""Opens every backend of every room: app, environment, room, receiver. Raises BackendError."""


class Life:
    """One room from start to end: it waits for its predecessor, then serves with one backend after the other.

    The room does not know its life, so that both are freed at once when this ends; `Room.stop` reaches it by a cancel scope.
    """

    __slots__ = ("_endings", "_environment", "_keeper", "_open_backend", "_predecessor", "_restarts", "room")

    def __init__(
        self,
        room: Room,
        *,
        environment: Mapping[str, str],
        keeper: Keeper,
        open_backend: OpenBackend,
        endings: Turnstile,
        predecessor: Room | None = None,
    ) -> None:
        """Describe the life of `room`, which begins when its predecessor of the same name has ended.

        Its backends are stopped one by one with those of others that pass the same `endings`.
        """
        self.room = room
        self._environment = environment
        self._keeper = keeper
        self._open_backend = open_backend
        self._endings = endings
        self._predecessor = predecessor
        self._restarts = RestartPolicy()

    async def run(self) -> None:
        """Live from start to end. When it returns the room has ENDED."""
        try:
            if self._predecessor is not None:
                await self._predecessor.wait_ended()
                self._predecessor = None
                self.room.predecessor_ended()
            await self._live()
        finally:
            self.room.end()

    async def _live(self) -> None:
        """Serve with one backend after the other, as `restart` says, until `Room.stop` has its word."""
        room, delay = self.room, 0.0
        while room.last_word is None:
            with anyio.CancelScope() as room.scope:
                if delay:
                    await anyio.sleep(delay)
                delay = await self._serve()

    async def _serve(self) -> float:
        """Serve with one backend; return the delay before the next one, or stop the room when there is none."""
        room = self.room
        self._keeper.room_opening(room)
        try:
            backend = await self._open_backend(room.app, self._environment, room.name, room)
        except BackendError as error:
            self._keeper.room_failed(room)
            close = Close(CloseCode.BACKEND_FAILED, str(error))
            delay = self._restart_delay(close, is_success=False)
        else:
            try:
                room.attach(backend)
                end = await backend.wait_exit()
                close = BACKEND_ENDED if end.status == 0 else Close(_code(end), str(end))
                if not end.is_success:
                    self._keeper.room_crashed(room)
                    log.warning("backend ended", app=room.app.name, room=room.name, pid=backend.pid, why=close.reason)
                delay = self._restart_delay(close, is_success=end.is_success)
                if delay is None:
                    room.leave_map()
                else:
                    room.begin_again()
                if await self._drain(backend):
                    room.flush()
                    if delay is None:
                        room.close_clients(close)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._endings.wait()
                    end = await backend.stop(signal=room.app.stop_signal, timeout=room.app.stop_timeout)
                room.flush()
                room.detach()
                self._keeper.room_exited(room, end)
        if delay is None:
            room.stop(close)
            return 0.0
        return delay

    async def _drain(self, backend: Backend) -> bool:
        """Deliver what an ended backend has still said; False if somebody it left still holds its output after that.

        That is awaited for `stop_timeout`. But while the output waits for slow clients, what was unread when the backend
        ended may be its own last words; `Flow` bounds that.
        """
        room, patience = self.room, max(self.room.app.stop_timeout, LAST_WORDS)
        own = sum(backend.output)
        while True:
            was_waiting = room.is_output_waiting
            with anyio.move_on_after(patience) as scope:
                await backend.wait_drained()
            if not scope.cancelled_caught:
                return True
            if backend.output[0] >= own or not (was_waiting or room.is_output_waiting):
                return False

    def _restart_delay(self, close: Close, *, is_success: bool) -> float | None:
        """Seconds until the next backend, or None for the end: nobody is there to play with it, or it failed too often."""
        room, mode = self.room, self.room.app.restart
        if mode == "never" or (mode == "on-failure" and is_success) or not room.clients or room.state is State.STOPPING:
            return None
        delay = self._restarts.decide(asyncio.get_running_loop().time())
        if delay is None:
            log.error("backend is given up", app=room.app.name, room=room.name, why=close.reason)
        else:
            log.warning("backend starts again", app=room.app.name, room=room.name, why=close.reason, seconds=round(delay, 3))
        return delay


def _code(end: Exit) -> CloseCode:
    return CloseCode.NORMAL if end.is_success else CloseCode.BACKEND_FAILED
