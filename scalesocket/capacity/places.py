"""Places of one kind, of which a limit allows so many: connections of the server, connections or rooms of an app."""

from typing import Protocol


class Places(Protocol):
    """The taken places of one kind. Each holder releases its place once."""

    @property
    def taken(self) -> int:
        """The places that are taken in the whole server."""

    @property
    def own(self) -> int:
        """Those of them that this process has taken."""

    def take(self, limit: int | None) -> bool:
        """Take a place. Return False, without one, if `limit` are taken. None: no limit."""

    def release(self) -> None:
        """Release a place."""


class LocalPlaces:
    """The places in a server of one process."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        """Start with all places free."""
        self.taken = 0

    @property
    def own(self) -> int:
        """All of them."""
        return self.taken

    def take(self, limit: int | None) -> bool:
        """Take a place, unless `limit` are taken."""
        if limit is not None and self.taken >= limit:
            return False
        self.taken += 1
        return True

    def release(self) -> None:
        """Release a place."""
        self.taken -= 1
