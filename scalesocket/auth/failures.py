"""Failed attempts of each address: `auth.failures`."""

from collections import OrderedDict
from typing import Final, Protocol

from scalesocket.config.model import Failures
from scalesocket.wire.address import block_of

MAX_BLOCKS: Final = 65_536
"""Address blocks whose failures are remembered, some 300 bytes each. Beyond that the least recent is
forgotten."""

Peer = tuple[str, int] | None
"""A client's address and port; None on a unix socket, where addresses are not limited."""


Failure = tuple[float, float]
"""A number of failed attempts, and the time in seconds at which there were so many."""


class Failed(Protocol):
    """Counts failed attempts by address block; see `block_of`. A count falls by `limit` in `per`, evenly."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes count in it, too, so that a count may rise at any time."""

    def wait(self, peer: Peer, limits: Failures, now: float) -> float:
        """Return the seconds until the peer may try again; 0.0 if it may try now."""

    def add(self, peer: Peer, limits: Failures, now: float) -> bool:
        """Count a failed attempt. Return whether the peer might still try at `now`, as far as is known, before this one."""

    def count(self, block: str, limits: Failures, now: float) -> float:
        """Return the failed attempts of an address block that still count."""


class FailureTable:
    """Counts the failed attempts in a server of one process (`Failed`)."""

    __slots__ = ("_failed",)

    is_shared = False

    def __init__(self) -> None:
        """Start without failures."""
        self._failed: OrderedDict[str, Failure] = OrderedDict()
        """The least recent first."""

    def wait(self, peer: Peer, limits: Failures, now: float) -> float:
        """Return the seconds until the peer may try again; 0.0 if it may try now."""
        if peer is None or not self._failed:
            return 0.0
        return wait_after(self.count(block_of(peer[0]), limits, now), limits)

    def add(self, peer: Peer, limits: Failures, now: float) -> bool:
        """Count a failed attempt. It was allowed: this process alone counts in this table."""
        if peer is None:
            return True
        block, failed = block_of(peer[0]), self._failed
        failed[block] = (self.count(block, limits, now) + 1.0, now)
        failed.move_to_end(block)
        while failed and (len(failed) > MAX_BLOCKS or now - next(iter(failed.values()))[1] > limits.per):
            failed.popitem(last=False)
        return True

    def count(self, block: str, limits: Failures, now: float) -> float:
        """Return the failed attempts of an address block that still count."""
        return count_at(now, self._failed.get(block), limits)

    def __len__(self) -> int:
        """Return the number of blocks that are remembered."""
        return len(self._failed)


def count_at(now: float, failure: Failure | None, limits: Failures) -> float:
    """Return the failed attempts that still count at `now`."""
    if failure is None:
        return 0.0
    count, at = failure
    return max(0.0, min(count, float(limits.limit)) - (now - at) * limits.limit / limits.per)


def wait_after(count: float, limits: Failures) -> float:
    """Return the seconds until one more attempt may be made, after so many that count."""
    return max(0.0, (count - (limits.limit - 1)) * limits.per / limits.limit)
