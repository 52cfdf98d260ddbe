"""Failed attempts of each address: `auth.failures`."""

from collections import OrderedDict
from typing import Final

from scalesocket.config.model import Failures
from scalesocket.wire.address import block_of

MAX_BLOCKS: Final = 65_536
"""Address blocks whose failures are remembered, some 300 bytes each. Beyond that the least recent is
forgotten."""

Peer = tuple[str, int] | None
"""A client's address and port; None on a unix socket, where addresses are not limited."""


class FailureTable:
    """Counts failed attempts by address block; see `block_of`. A count falls by `limit` in `per`, evenly."""

    __slots__ = ("_failed",)

    def __init__(self) -> None:
        """Start without failures."""
        self._failed: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """The count, and the time of its last change; the least recent first."""

    def wait(self, peer: Peer, limits: Failures, now: float) -> float:
        """Return the seconds until the peer may try again; 0.0 if it may try now."""
        if peer is None or not self._failed:
            return 0.0
        count = self.count(block_of(peer[0]), limits, now)
        excess = count - (limits.limit - 1)
        return max(0.0, excess * limits.per / limits.limit)

    def add(self, peer: Peer, limits: Failures, now: float) -> None:
        """Count a failed attempt."""
        if peer is None:
            return
        block, failed = block_of(peer[0]), self._failed
        failed[block] = (self.count(block, limits, now) + 1.0, now)
        failed.move_to_end(block)
        while failed and (len(failed) > MAX_BLOCKS or now - next(iter(failed.values()))[1] > limits.per):
            failed.popitem(last=False)

    def count(self, block: str, limits: Failures, now: float) -> float:
        """Return the failed attempts of an address block that still count."""
        count, at = self._failed.get(block, (0.0, now))
        return max(0.0, min(count, float(limits.limit)) - (now - at) * limits.limit / limits.per)

    def __len__(self) -> int:
        """Return the number of blocks that are remembered."""
        return len(self._failed)
