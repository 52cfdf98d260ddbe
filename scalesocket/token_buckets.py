"""Token buckets of addresses, in a bounded table: for limits on what one address may do in a second."""

from collections import OrderedDict
from typing import Final

from scalesocket.wire.address import block_of

MAX_BLOCKS: Final = 65_536
"""Address blocks with a token bucket, some 400 bytes each. Beyond that the least recently used bucket is dropped, so its block
starts with a full one: a rate for each address does not limit a client with that many addresses."""
DROPS_PER_TOKEN: Final = 2
"""Full buckets that are dropped for each token: more than it adds, so they never accumulate."""
DROPS_PER_SWEEP: Final = 1000
"""Full buckets that are dropped by one sweep, in less than a millisecond."""

Peer = tuple[str, int] | None
"""A client's address and port; None on a unix socket, where addresses are not limited."""
Bucket = tuple[float, float]
"""Tokens, and the time in seconds at which there were so many."""


class TokenBuckets:
    """A token bucket for each address block; see `block_of`.

    A bucket starts with `size` tokens, and `rate` tokens a second are added up to that. A full bucket is equivalent to none, so
    full buckets are dropped. Rate and size are arguments of each call, because an edit may change them.
    """

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        """Start with full buckets."""
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        """The least recently used first."""

    def __len__(self) -> int:
        """The number of buckets that may not be full."""
        return len(self._buckets)

    def take(self, peer: Peer, rate: float, size: float, now: float) -> float:
        """Take a token at `now`. Return 0.0, or the seconds until the next token if there is none.

        A refused caller takes no token, so one that keeps trying is admitted at the rate.
        """
        if peer is None:
            return 0.0
        block, buckets = block_of(peer[0]), self._buckets
        bucket = buckets.get(block)
        wait = wait_of(bucket, rate, size, now)
        if wait:
            return wait
        buckets[block] = take_from(bucket, rate, size, now)
        buckets.move_to_end(block)
        self._drop_full(rate, size, now, DROPS_PER_TOKEN)
        if len(buckets) > MAX_BLOCKS:
            buckets.popitem(last=False)
        return 0.0

    def sweep(self, rate: float, size: float, now: float) -> None:
        """Drop a bounded number of full buckets."""
        self._drop_full(rate, size, now, DROPS_PER_SWEEP)

    def clear(self) -> None:
        """Drop all buckets: the rate was removed."""
        self._buckets.clear()

    def _drop_full(self, rate: float, size: float, now: float, most: int) -> None:
        """Drop full buckets, the oldest first, up to the first that is not full. Each is full after the time of a burst."""
        buckets = self._buckets
        for _ in range(min(most, len(buckets))):
            oldest = next(iter(buckets))
            if tokens_of(buckets[oldest], rate, size, now) < size:
                return
            del buckets[oldest]


def tokens_of(bucket: Bucket | None, rate: float, size: float, now: float) -> float:
    """Return the tokens in a bucket at `now`. None stands for a full one."""
    if bucket is None:
        return size
    tokens, at = bucket
    return min(size, tokens + (now - at) * rate)


def wait_of(bucket: Bucket | None, rate: float, size: float, now: float) -> float:
    """Return 0.0 if a bucket has a token at `now`, else the seconds until it has one."""
    tokens = tokens_of(bucket, rate, size, now)
    return 0.0 if tokens >= 1.0 else (1.0 - tokens) / rate


def take_from(bucket: Bucket | None, rate: float, size: float, now: float) -> Bucket:
    """Return a bucket that has a token, with one less."""
    return tokens_of(bucket, rate, size, now) - 1.0, now
