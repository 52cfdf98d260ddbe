"""How often clients come, and how many are there, by address: what `connect_rate` and `max_connections_per_ip` look at."""

from collections import Counter, OrderedDict
from typing import Final

from scalesocket.config.model import ConnectRate
from scalesocket.wire.address import block_of

MAX_BLOCKS: Final = 65_536
"""Blocks of addresses whose upgrades are remembered, some 400 bytes each. Beyond them the block that took its last token longest
ago is forgotten, and starts with a full bucket: a rate for each address does not stop a client that has so many of them."""
DROPS: Final = 2
"""Full buckets that are dropped for each upgrade: more than it can add, so that they never pile up."""
DROPS_A_SWEEP: Final = 1000
"""Full buckets that are dropped from time to time, when nobody comes: less than a millisecond of work."""

Peer = tuple[str, int] | None
"""A client's address and port; None on a unix socket, whose clients are not limited by address."""


class Arrivals:
    """Counts websockets and upgrades by the block of their address; see `block_of`. One belongs to the gateway.

    Each block has a token bucket: it starts full, an upgrade takes a token, and `per_ip` tokens a second come back. A full
    bucket is the same as none, so it is dropped.
    """

    __slots__ = ("_buckets", "_open")

    def __init__(self) -> None:
        """Start with nobody."""
        self._open: Counter[str] = Counter()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens at a time, in the order of that time

    def is_full(self, peer: Peer, limit: int) -> bool:
        """Whether a peer's block has `limit` websockets already."""
        return peer is not None and self._open[block_of(peer[0])] >= limit

    def join(self, peer: Peer) -> None:
        """Count a websocket."""
        if peer is not None:
            self._open[block_of(peer[0])] += 1

    def leave(self, peer: Peer) -> None:
        """Count a websocket no more."""
        if peer is None:
            return
        block = block_of(peer[0])
        if self._open[block] <= 1:
            del self._open[block]
        else:
            self._open[block] -= 1

    def take(self, peer: Peer, rate: ConnectRate, now: float) -> float:
        """Take a token for an upgrade at `now`, in seconds. Returns 0.0, or how long the next token takes where there is none.

        A refused upgrade takes nothing, so a client that keeps trying gets in at the rate.
        """
        if peer is None:
            return 0.0
        block, buckets = block_of(peer[0]), self._buckets
        tokens = _tokens(buckets.get(block), rate, now)
        if tokens < 1.0:
            return (1.0 - tokens) / rate.per_ip
        buckets[block] = (tokens - 1.0, now)
        buckets.move_to_end(block)
        self._drop_full(rate, now, DROPS)
        if len(buckets) > MAX_BLOCKS:
            buckets.popitem(last=False)
        return 0.0

    def sweep(self, rate: ConnectRate | None, now: float) -> None:
        """Drop full buckets; without a rate all of them."""
        if rate is None:
            self._buckets.clear()
        else:
            self._drop_full(rate, now, DROPS_A_SWEEP)

    def _drop_full(self, rate: ConnectRate, now: float, most: int) -> None:
        """Drop full buckets, the oldest first, up to the first that is not full. That is full after the time of a burst."""
        buckets = self._buckets
        for _ in range(min(most, len(buckets))):
            oldest = next(iter(buckets))
            if _tokens(buckets[oldest], rate, now) < rate.size:
                return
            del buckets[oldest]


def _tokens(bucket: tuple[float, float] | None, rate: ConnectRate, now: float) -> float:
    """What is in a bucket at `now`; a block without one has a full one."""
    if bucket is None:
        return rate.size
    tokens, at = bucket
    return min(rate.size, tokens + (now - at) * rate.per_ip)
