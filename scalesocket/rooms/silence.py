"""Notices a program that has been given messages and has never written anything; often it does not flush its output."""

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room

PATIENCE: Final = 5.0
"""Seconds a program has, after its first message was seen, to write something."""

log = structlog.get_logger("room")


class Silence:
    """Logs one hint about a room whose program stays silent. It costs the check of the room's deadlines, not each message."""

    __slots__ = ("_earlier", "_is_over", "_room", "_since")

    def __init__(self, room: "Room") -> None:
        """Watch the programs of `room`."""
        self._room = room
        self._since: float | None = None
        """When a message to the program was first seen."""
        self._earlier = 0
        """Messages that a former program was given."""
        self._is_over = room.app.command is None  # what a target does is not known here

    def begin_again(self) -> None:
        """Another program follows one that ended; what comes from now on is for it."""
        self._earlier, self._since = self._messages, None

    @property
    def _messages(self) -> int:
        """Messages that clients have sent to the programs of the room; those that were dropped reached none."""
        return self._room.counts.messages_in - self._room.counts.messages_dropped

    def check(self, now: float) -> None:
        """Look whether the program has written something, or has had a message for too long."""
        if self._is_over or (output := self._room.output) is None:
            return
        messages = self._messages - self._earlier
        if output != (0, 0):
            self._is_over = True
        elif messages > 0 and self._since is None:
            self._since = now
        elif self._since is not None and now - self._since >= PATIENCE and not self._room.unsent:
            self._is_over = True
            log.info(
                "the program was given messages and wrote nothing",
                app=self._room.app.name,
                room=self._room.name,
                messages=messages,
                hint="does it flush its output after each record, and read its input? see Flushing in docs/protocol.md",
            )
