"""The limits of addresses over all workers: `connect_rate`, `max_connections_per_ip`, `room_rate`, `auth.failures`."""

import mmap
import struct
from typing import Final

from scalesocket.auth.failures import Peer, count_at, wait_after
from scalesocket.config.model import ConnectRate, Failures, RoomRate
from scalesocket.shared_memory.address_counts import AddressCounts
from scalesocket.shared_memory.hashing import Hash
from scalesocket.shared_memory.locks import Locks
from scalesocket.shared_memory.pairs import PairTable
from scalesocket.token_buckets import take_from, wait_of
from scalesocket.wire.address import block_of

BUSY: Final = 1.0
"""Seconds after which a client should try again whose bucket was not to be had."""
MAX_UNCOUNTED: Final = 1024
"""Addresses whose failures wait to be counted."""

_BUCKET: Final = struct.Struct("dd")


class SharedBuckets:
    """A token bucket for each address block, as `TokenBuckets`."""

    __slots__ = ("_app", "_hash", "_table")

    def __init__(self, table: PairTable, hash_of: Hash, app: str = "") -> None:
        self._table = table
        self._hash = hash_of
        self._app = app

    def take(self, peer: Peer, rate: float, size: float, now: float) -> float:
        """Take a token at `now`. Return 0.0, or the seconds until the next token if there is none."""
        if peer is None:
            return 0.0
        key = self._hash("rate", self._app, block_of(peer[0]))
        if not self._table.acquire(key):
            return BUSY
        try:
            bucket = self._table.read(key)
            wait = wait_of(bucket, rate, size, now)
            if not wait:
                self._table.write(key, take_from(bucket, rate, size, now))
            return wait
        finally:
            self._table.release(key)


class SharedAddressLimits:
    """`connect_rate` and `max_connections_per_ip` (`capacity.AddressLimiter`)."""

    __slots__ = ("_buckets", "_counts", "_hash")

    def __init__(self, counts: AddressCounts, buckets: SharedBuckets, hash_of: Hash) -> None:
        self._counts = counts
        self._buckets = buckets
        self._hash = hash_of

    def is_full(self, peer: Peer, limit: int) -> bool:
        """Return whether the peer's block has `limit` open websockets."""
        return peer is not None and self._counts.total(self._key(peer)) >= limit

    def take(self, peer: Peer, limit: int | None) -> bool:
        """Count an open websocket, unless its block has `limit`."""
        return peer is None or self._counts.take(self._key(peer), limit)

    def release(self, peer: Peer) -> None:
        """Uncount a closed websocket."""
        if peer is not None:
            self._counts.release(self._key(peer))

    def take_token(self, peer: Peer, rate: ConnectRate, now: float) -> float:
        """Take a token for an upgrade. Return 0.0, or the seconds until the next token if there is none."""
        return self._buckets.take(peer, rate.per_ip, rate.size, now)

    def sweep(self, limit: int | None, rate: ConnectRate | None, now: float) -> None:
        """Enter what was counted while there was no limit. Buckets need no sweep: old ones are overwritten."""
        self._counts.sweep(limit)

    def _key(self, peer: tuple[str, int]) -> int:
        return self._hash("open", "", block_of(peer[0]))


class SharedOpeningRate:
    """`room_rate` of one app (`capacity.OpeningLimiter`)."""

    __slots__ = ("_addresses", "_at", "_locks", "_mapping")

    def __init__(self, mapping: mmap.mmap, at: int, addresses: SharedBuckets, locks: Locks) -> None:
        """`at`: the offset of the bucket of all addresses together."""
        self._mapping = mapping
        self._at = at
        self._addresses = addresses
        self._locks = locks

    def take(self, peer: Peer, rate: RoomRate, now: float) -> bool:
        """Take the tokens for a room that `peer` would open. Return False if one is missing; then none is taken."""
        if rate.total is None:
            return self._take_of_address(peer, rate, now)
        if not self._locks.acquire(self._at):
            return False
        try:
            found: tuple[float, float] = _BUCKET.unpack_from(self._mapping, self._at)
            bucket = found if found[1] else None  # a new bucket is full
            if wait_of(bucket, rate.total, rate.size_total, now) or not self._take_of_address(peer, rate, now):
                return False
            _BUCKET.pack_into(self._mapping, self._at, *take_from(bucket, rate.total, rate.size_total, now))
            return True
        finally:
            self._locks.release(self._at)

    def sweep(self, rate: RoomRate | None, now: float) -> None:
        """Do nothing: old buckets are overwritten."""

    def _take_of_address(self, peer: Peer, rate: RoomRate, now: float) -> bool:
        return rate.per_ip is None or not self._addresses.take(peer, rate.per_ip, rate.size_per_ip, now)


class SharedFailures:
    """Failed attempts to enter one app (`auth.failures.Failed`)."""

    __slots__ = ("_app", "_hash", "_table", "_uncounted")

    is_shared = True

    def __init__(self, table: PairTable, hash_of: Hash, app: str) -> None:
        self._table = table
        self._hash = hash_of
        self._app = app
        self._uncounted: dict[int, int] = {}
        """Failures that could not be counted, by address: they are with the next one."""

    def wait(self, peer: Peer, limits: Failures, now: float) -> float:
        """Return the seconds until the peer may try again; 0.0 if it may try now."""
        return 0.0 if peer is None else wait_after(self.count(block_of(peer[0]), limits, now), limits)

    def add(self, peer: Peer, limits: Failures, now: float) -> bool:
        """Count a failed attempt. Return whether the peer might still try at `now`, as far as is known, before this one."""
        if peer is None:
            return True
        key = self._hash("failures", self._app, block_of(peer[0]))
        new = 1 + self._uncounted.pop(key, 0)
        if not self._table.acquire(key):
            if len(self._uncounted) < MAX_UNCOUNTED:
                self._uncounted[key] = new
            return False
        try:
            count = count_at(now, self._table.read(key), limits)
            self._table.write(key, (count + new, now))
        finally:
            self._table.release(key)
        return not wait_after(count + new - 1, limits)

    def count(self, block: str, limits: Failures, now: float) -> float:
        """Return the failed attempts of an address block that still count."""
        key = self._hash("failures", self._app, block)
        return count_at(now, self._table.read(key), limits) + self._uncounted.get(key, 0)


class SharedDeciding:
    """Attempts to enter one app that are being decided (`auth.turns.Deciding`)."""

    __slots__ = ("_app", "_counts", "_hash")

    def __init__(self, counts: AddressCounts, hash_of: Hash, app: str) -> None:
        self._counts = counts
        self._hash = hash_of
        self._app = app

    def enter(self, block: str) -> int | None:
        """Count an attempt; return how many there are now. None: that cannot be found out now, and nothing was counted."""
        return self._counts.enter(self._hash("deciding", self._app, block))

    def leave(self, block: str) -> None:
        """Uncount an attempt."""
        self._counts.release(self._hash("deciding", self._app, block))
