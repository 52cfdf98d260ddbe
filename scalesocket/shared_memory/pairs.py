"""A table of two numbers for each key: token buckets, and failed attempts with their time. All workers write it, with locks."""

import mmap
import struct
from typing import Final

from scalesocket.shared_memory.layout import PAIR, SET, SLOTS
from scalesocket.shared_memory.locks import Locks

Pair = tuple[float, float]
"""A number, and the time in seconds at which it was right."""

_SETS: Final = SLOTS // SET
_SET: Final = struct.Struct("Qdd" * SET)
_KEY_AND_NUMBER: Final = struct.Struct("Qd")
_TIME: Final = struct.Struct("d")


class PairTable:
    """The table. A key has one of SET slots; in full ones it takes that of the key whose time is the oldest."""

    __slots__ = ("_locks", "_mapping", "_offset")

    def __init__(self, mapping: mmap.mmap, offset: int, locks: Locks) -> None:
        self._mapping = mapping
        self._offset = offset
        self._locks = locks

    def acquire(self, key: int) -> bool:
        """Lock the pair of a key, and others with it. Return False if that takes too long."""
        return self._locks.acquire(self._set_of(key))

    def release(self, key: int) -> None:
        """Unlock it."""
        self._locks.release(self._set_of(key))

    def read(self, key: int) -> Pair | None:
        """Return the pair of a key. Without its lock, it may have the number of before with a newer time."""
        found = _SET.unpack_from(self._mapping, self._set_of(key))
        keys = found[::3]
        if key not in keys:
            return None
        at = 3 * keys.index(key)
        return found[at + 1], found[at + 2]

    def write(self, key: int, pair: Pair) -> None:
        """Set the pair of a key, whose lock the caller holds."""
        at = self._set_of(key)
        found = _SET.unpack_from(self._mapping, at)
        keys = found[::3]
        times = found[2::3]
        slot = keys.index(key) if key in keys else times.index(min(times))  # an empty slot has the time 0
        at += slot * PAIR
        _TIME.pack_into(self._mapping, at + _KEY_AND_NUMBER.size, pair[1])  # first, and it is read last: see `read`
        _KEY_AND_NUMBER.pack_into(self._mapping, at, key, pair[0])

    def _set_of(self, key: int) -> int:
        return self._offset + key % _SETS * _SET.size
