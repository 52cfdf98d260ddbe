"""How long a room waits for a client that reads too slowly."""

from typing import Final, Self

LIMIT: Final = 1.0
"""Seconds that one client may delay its room in any `WINDOW`."""
WINDOW: Final = 10.0
"""Seconds."""
STALLED: Final = 0.24
"""Seconds of delay after which a client that takes no byte has no patience left. With the time to notice that and to read the
backend again, the others are delayed by 250 ms."""
STUCK: Final = 1.0
"""Seconds without taking a byte after which a client is too slow even if it delays no other client."""
SLOT: Final = 0.1
"""Delays are summed per slot of so many seconds, which keeps an account small."""


class Patience:
    """The account of one client: how long it has delayed its room lately, and whether it still takes anything.

    All times are those of the event loop, in seconds.
    """

    __slots__ = ("_backlog", "_slots", "_stalled", "_stuck")

    def __init__(self) -> None:
        """Begin with nothing spent."""
        self._slots: dict[int, float] = {}
        """Seconds spent in each `SLOT`, numbered from time 0."""
        self._stalled = 0.0  # seconds without progress while others were delayed
        self._stuck = 0.0  # seconds without progress
        self._backlog = 0

    def begin(self, backlog: int) -> None:
        """Begin to wait for a client that has `backlog` bytes queued, before the write that made the room wait.

        A client that takes less than that write counts as taking nothing: when the kernel probes the full receive window of a
        client that never reads, it may still send that much (RFC 9293 3.8.6.1).
        """
        self._backlog = backlog
        self._stalled = self._stuck = 0.0

    def spend(self, seconds: float, now: float, backlog: int, *, is_delaying: bool) -> None:
        """Count `seconds` until `now` in which the room waited for the client. They are charged if that delayed other clients."""
        if backlog < self._backlog:
            self.begin(backlog)
        self._stuck += seconds
        if not is_delaying:
            return
        self._stalled += seconds
        slot = int(now / SLOT)
        self._slots[slot] = self._slots.get(slot, 0.0) + seconds

    def take_over(self, other: Self) -> None:
        """Add what another account has spent to this one. Delays at the same time count once."""
        for slot, seconds in other._slots.items():
            self._slots[slot] = max(seconds, self._slots.get(slot, 0.0))

    def has_spent(self, now: float) -> bool:
        """Whether anything was spent within the window."""
        self._forget_old(now)
        return bool(self._slots)

    def left(self, now: float) -> float:
        """Seconds for which the room may still be delayed; 0.0 if the client is too slow."""
        self._forget_old(now)
        return max(0.0, min(LIMIT - sum(self._slots.values()), STALLED - self._stalled, STUCK - self._stuck))

    def _forget_old(self, now: float) -> None:
        oldest = int((now - WINDOW) / SLOT)
        for slot in [slot for slot in self._slots if slot < oldest]:
            del self._slots[slot]
