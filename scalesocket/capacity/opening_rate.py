"""The limit on how fast the rooms of one app are opened: `room_rate`."""

from scalesocket.config.model import RoomRate
from scalesocket.token_buckets import Bucket, Peer, TokenBuckets, take_from, wait_of


class OpeningRate:
    """A token bucket for each address and one for the app. A new room takes a token of both, or of neither."""

    __slots__ = ("_addresses", "_total")

    def __init__(self) -> None:
        """Start with full buckets."""
        self._addresses = TokenBuckets()
        self._total: Bucket | None = None

    def take(self, peer: Peer, rate: RoomRate, now: float) -> bool:
        """Take the tokens for a room that `peer` would open at `now`, in seconds.

        Return False if one is missing; then none is taken.
        """
        if rate.total is not None and wait_of(self._total, rate.total, rate.size_total, now):
            return False
        if rate.per_ip is not None and self._addresses.take(peer, rate.per_ip, rate.size_per_ip, now):
            return False
        if rate.total is not None:
            self._total = take_from(self._total, rate.total, rate.size_total, now)
        return True

    def sweep(self, rate: RoomRate | None, now: float) -> None:
        """Drop buckets of addresses that are full; all of them if there is no rate for addresses."""
        if rate is None or rate.per_ip is None:
            self._addresses.clear()
        else:
            self._addresses.sweep(rate.per_ip, rate.size_per_ip, now)
