"""The histories of one app that outlive their rooms: `history.persist`."""

from collections.abc import Container
from typing import Final

from scalesocket.config.model import App
from scalesocket.rooms.history import Bounds, History

MAX_HISTORIES: Final = 10_000
"""Rooms whose history outlives them where `max_rooms` sets no bound."""


class Histories:
    """The histories of rooms by name, least recently used first."""

    def __init__(self) -> None:
        """Start without any."""
        self._kept: dict[str, History] = {}

    def open(self, app: App, name: str) -> History | None:
        """Return the history of a new room: the one that an earlier room of that name left, or an empty one."""
        wanted = app.history
        if wanted is None:
            return None
        bounds: Bounds = {"size": wanted.size, "keep": wanted.keep, "max_bytes": wanted.max_bytes}
        if not wanted.persist:
            return History(**bounds)
        history = self._kept.pop(name, None)
        if history is None:
            history = History(**bounds)
        else:
            history.apply(**bounds)  # the same object: a predecessor may still add to it
        self._kept[name] = history
        return history

    def used(self, name: str) -> None:
        """Note that a room has ended: its history is the one most recently used."""
        if name in self._kept:
            self._kept[name] = self._kept.pop(name)

    def bound(self, app: App, in_use: Container[str]) -> None:
        """Drop histories beyond the bound, but not those of rooms that have not ended, whose names are `in_use`."""
        if app.history is None or not app.history.persist:
            self._kept.clear()
        surplus = len(self._kept) - (app.max_rooms or MAX_HISTORIES)
        if surplus > 0:
            unused = [name for name in self._kept if name not in in_use]
            for name in unused[:surplus]:
                del self._kept[name]
