"""Limits for each address: `connect_rate` and `max_connections_per_ip`."""

from collections import Counter, OrderedDict
from typing import Final

from scalesocket.config.model import ConnectRate
from scalesocket.wire.address import block_of

MAX_BLOCKS: Final = 65_536
"""Address blocks with a token bucket, some 400 bytes each. Beyond that the least recently used bucket is dropped, so its block
starts with a full one: a rate for each address does not limit a client with that many addresses."""
DROPS_PER_UPGRADE: Final = 2
"""Full buckets that are dropped for each upgrade: more than an upgrade adds, so they never accumulate."""
DROPS_PER_SWEEP: Final = 1000
"""Full buckets that are dropped by one sweep, in less than a millisecond."""

Peer = tuple[str, int] | None
"""A client's address and port; None on a unix socket, where addresses are not limited."""


class AddressLimits:
    """Counts open websockets and limits the rate of upgrades by address block; see `block_of`.

    Each block has a token bucket. It starts full, each upgrade takes a token, and `per_ip` tokens a second are added. A full
    bucket is equivalent to none, so full buckets are dropped.
    """

    __slots__ = ("_buckets", "_open")

    def __init__(self) -> None:
        """Start without websockets and with full buckets."""
        self._open: Counter[str] = Counter()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens, and the time at which there were so many; the least recent first."""

    def is_full(self, peer: Peer, limit: int) -> bool:
        """Return whether the peer's block has `limit` open websockets."""
        return peer is not None and self._open[block_of(peer[0])] >= limit

    def add(self, peer: Peer) -> None:
        """Count an open websocket."""
        if peer is not None:
            self._open[block_of(peer[0])] += 1

    def remove(self, peer: Peer) -> None:
        """Uncount a closed websocket."""
        if peer is None:
            return
        block = block_of(peer[0])
        if self._open[block] <= 1:
            del self._open[block]
        else:
            self._open[block] -= 1

    def take_token(self, peer: Peer, rate: ConnectRate, now: float) -> float:
        """Take a token for an upgrade at `now`, in seconds. Return 0.0, or the seconds until the next token if there is none.

        A refused upgrade takes no token, so a client that keeps trying is admitted at the rate.
        """
        if peer is None:
            return 0.0
        block, buckets = block_of(peer[0]), self._buckets
        tokens = _tokens(buckets.get(block), rate, now)
        if tokens < 1.0:
            return (1.0 - tokens) / rate.per_ip
        buckets[block] = (tokens - 1.0, now)
        buckets.move_to_end(block)
        self._drop_full(rate, now, DROPS_PER_UPGRADE)
        if len(buckets) > MAX_BLOCKS:
            buckets.popitem(last=False)
        return 0.0

    def sweep(self, rate: ConnectRate | None, now: float) -> None:
        """Drop full buckets; all buckets if there is no rate."""
        if rate is None:
            self._buckets.clear()
        else:
            self._drop_full(rate, now, DROPS_PER_SWEEP)

    def _drop_full(self, rate: ConnectRate, now: float, most: int) -> None:
        """Drop full buckets, the oldest first, up to the first that is not full. Each is full after the time of a burst."""
        buckets = self._buckets
        for _ in range(min(most, len(buckets))):
            oldest = next(iter(buckets))
            if _tokens(buckets[oldest], rate, now) < rate.size:
                return
            del buckets[oldest]


def _tokens(bucket: tuple[float, float] | None, rate: ConnectRate, now: float) -> float:
    """Return the tokens in a bucket at `now`. None stands for a full one."""
    if bucket is None:
        return rate.size
    tokens, at = bucket
    return min(rate.size, tokens + (now - at) * rate.per_ip)
