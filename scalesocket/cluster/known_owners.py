"""The owners that took a client a moment ago. The next client of such a room costs no question to the directory."""

from collections.abc import Callable
from typing import Final

from scalesocket.cluster.records import RoomName
from scalesocket.cluster.remote import Claim

MAX_KNOWN: Final = 10_000
"""Rooms of other nodes. For one more, the one whose last client came first is forgotten."""


class KnownOwners:
    """Owners of rooms on other nodes, each known for a moment after it took a client.

    It may be another node by then: a node takes clients only for rooms that it owns, by the fence of the sender. Otherwise the
    directory is asked.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        """Know each for `seconds`, by `clock`.

        A fifth of a lease is no risk. A node with less than that left takes no clients, so the directory would name it, too.
        """
        self._seconds = seconds
        self._clock = clock
        self._known: dict[RoomName, tuple[Claim, float]] = {}  # with the time of the last client, the first one first

    def find(self, name: RoomName) -> Claim | None:
        """Return the owner of a room, if it took a client a moment ago."""
        claim, taken_at = self._known.get(name, (None, 0.0))
        return claim if claim is not None and self._clock() < taken_at + self._seconds else None

    def note(self, name: RoomName, claim: Claim, has_taken: bool) -> None:
        """Note whether an owner has taken a client."""
        known = self._known.pop(name, None)
        if has_taken:
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[name] = claim, self._clock()
        elif known is not None and known[0] != claim:
            self._known[name] = known
