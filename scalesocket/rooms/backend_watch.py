"""What the sweep looks at in the backend of one room: whether it reads its input, and whether it has ever written."""

from collections.abc import Callable

import structlog

from scalesocket.backends.backend import Backend
from scalesocket.config.model import App
from scalesocket.errors import BACKEND_STALLED, Close
from scalesocket.rooms.deadlines import Deadlines
from scalesocket.rooms.flow import Flow
from scalesocket.rooms.flush_hint import FlushHint
from scalesocket.rooms.intake import Intake
from scalesocket.status import Counts

log = structlog.get_logger("room")


class BackendWatch:
    """Checks the backend of a room at intervals, so that messages cost nothing."""

    __slots__ = ("_counts", "_deadlines", "_flow", "_flush_hint", "_intake", "_room", "_stop")

    def __init__(
        self,
        app: App,
        room: str,
        *,
        deadlines: Deadlines,
        intake: Intake,
        flow: Flow,
        counts: Counts,
        stop: Callable[[Close], None],
    ) -> None:
        """Judge by these parts of a room of `app`; call `stop` if its backend does not read."""
        self._room = room
        self._deadlines = deadlines
        self._intake = intake
        self._flow = flow
        self._counts = counts
        self._stop = stop
        self._flush_hint = FlushHint(app.name, room, is_program=app.command is not None)

    def check(self, now: float, app: App, backend: Backend | None) -> None:
        """Stop the room if the backend has not read its input for `stall_timeout`; log a hint if it has never written."""
        unsent = self._intake.unsent
        if self._deadlines.is_stalled(now, written=self._intake.written, unsent=unsent, is_output_paused=self._flow.is_paused):
            hint = "it does not read its input; its room is closed"
            log.error("backend stalled", app=app.name, room=self._room, stall_timeout=app.stall_timeout, hint=hint)
            self._stop(BACKEND_STALLED)
        elif backend is not None:
            has_output = backend.output != (0, 0)
            self._flush_hint.check(now, messages=self._messages_taken, has_output=has_output, unsent=unsent)

    def backend_restarts(self) -> None:
        """Begin again with the next backend."""
        self._flush_hint.backend_restarts(self._messages_taken)

    @property
    def _messages_taken(self) -> int:
        """Messages of clients that were not dropped."""
        return self._counts.messages_in - self._counts.messages_dropped
