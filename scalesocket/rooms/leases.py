"""The right to open rooms, where several nodes share them: without it, a room is not opened, so that it never runs twice."""

from collections.abc import Mapping
from typing import Protocol

from scalesocket.rooms.room import Room


class RoomLeases(Protocol):
    """Which rooms this process may open. Without one, it may open all."""

    def may_open(self, app: str, room: str) -> bool:
        """Whether this process has claimed the room, and its lease has not ended."""

    def begin(self, room: Room) -> Mapping[str, str]:
        """Use the claim for a room that opens now. Returns what is added to the environment of its backends."""

    def end(self, room: Room) -> None:
        """Give up the claim of a room that has ended."""
