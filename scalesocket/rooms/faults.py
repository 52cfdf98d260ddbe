"""Containment of bugs: an unexpected exception is logged, and affects only the room it was raised in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from scalesocket.rooms.room import Room

log = structlog.get_logger("room")


@contextmanager
def contained(room: "Room") -> Iterator[None]:
    """Log an unexpected exception in one room with its traceback, and go on, so that no other room is affected."""
    try:
        yield
    except Exception:
        log.exception("room failed", app=room.app.name, room=room.name)
