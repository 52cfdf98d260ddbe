"""Limits for each address: `connect_rate` and `max_connections_per_ip`."""

from collections import Counter

from scalesocket.config.model import ConnectRate
from scalesocket.token_buckets import Peer, TokenBuckets
from scalesocket.wire.address import block_of


class AddressLimits:
    """Counts open websockets and limits the rate of upgrades by address block; see `block_of`.

    Each upgrade takes a token of its block's bucket, to which `per_ip` tokens a second are added.
    """

    __slots__ = ("_buckets", "_open")

    def __init__(self) -> None:
        """Start without websockets and with full buckets."""
        self._open: Counter[str] = Counter()
        self._buckets = TokenBuckets()

    def is_full(self, peer: Peer, limit: int) -> bool:
        """Return whether the peer's block has `limit` open websockets."""
        return peer is not None and self._open[block_of(peer[0])] >= limit

    def take(self, peer: Peer, limit: int | None) -> bool:
        """Count an open websocket, unless its block has `limit`."""
        if peer is not None:
            block = block_of(peer[0])
            if limit is not None and self._open[block] >= limit:
                return False
            self._open[block] += 1
        return True

    def release(self, peer: Peer) -> None:
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
        return self._buckets.take(peer, rate.per_ip, rate.size, now)

    def sweep(self, limit: int | None, rate: ConnectRate | None, now: float) -> None:
        """Drop full buckets; all buckets if there is no rate."""
        if rate is None:
            self._buckets.clear()
        else:
            self._buckets.sweep(rate.per_ip, rate.size, now)
