"""Containment of bugs: an unexpected exception is logged and affects only the room in which it was raised."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from scalesocket.config.model import App

log = structlog.get_logger("room")


class NamedRoom(Protocol):
    """A room as the log names it."""

    app: App
    name: str


@contextmanager
def contain_exceptions(room: NamedRoom) -> Iterator[None]:
    """Log an unexpected exception with its traceback and suppress it, so that other rooms are not affected."""
    try:
        yield
    except Exception:
        log.exception("room failed", app=room.app.name, room=room.name)
