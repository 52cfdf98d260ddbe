"""A hint in the log about a program that received messages and has never written anything; often it does not flush its output."""

from typing import Final

import structlog

TIME_TO_ANSWER: Final = 5.0
"""Seconds that a program has to write something after its first message."""

log = structlog.get_logger("room")


class FlushHint:
    """Logs the hint once for a room. Checked with the deadlines of the room, so that messages cost nothing."""

    __slots__ = ("_app", "_earlier", "_is_done", "_room", "_since")

    def __init__(self, app: str, room: str, *, is_program: bool) -> None:
        """Name the app and the room in the hint. Without `is_program` the backend is a connection, and there is no hint."""
        self._app = app
        self._room = room
        self._since: float | None = None
        """When a check first found a message to the program."""
        self._earlier = 0
        """Messages that former programs of the room received."""
        self._is_done = not is_program

    def backend_restarts(self, messages: int) -> None:
        """Begin again with the next program; the first `messages` messages went to former ones."""
        self._earlier, self._since = messages, None

    def check(self, now: float, *, messages: int, has_output: bool, unsent: int) -> None:
        """Log the hint if it is due at `now`.

        `messages`: those that clients sent to all programs of the room, without dropped ones. `has_output`: whether the running
        program has written anything. `unsent`: bytes of input that it has not taken.
        """
        if self._is_done:
            return
        messages -= self._earlier
        if has_output:
            self._is_done = True
        elif messages > 0 and self._since is None:
            self._since = now
        elif self._since is not None and now - self._since >= TIME_TO_ANSWER and not unsent:
            self._is_done = True
            log.info(
                "backend wrote nothing",
                app=self._app,
                room=self._room,
                messages=messages,
                hint="does it flush its output after each record, and read its input? see Flushing in docs/protocol.md",
            )
