"""How many of something each address has, counted over all workers: open websockets, attempts that are being decided."""

import mmap
import struct
from collections import Counter
from itertools import islice
from typing import Final

from scalesocket.shared_memory.columns import Columns
from scalesocket.shared_memory.layout import SET, SLOTS, WORD
from scalesocket.shared_memory.locks import Locks

PUBLISHED: Final = 512
"""Addresses that are entered into the table by one sweep."""

_SETS: Final = SLOTS // SET
_SET: Final = struct.Struct(f"{SET}Q")


class AddressCounts:
    """The counts: a table of keys, and a number for each of its slots in each column.

    A slot belongs to its key while any worker counts something in it. A worker that does so knows the slot, and needs no lock;
    the first one of a key is entered with a lock. Some are not entered, and this worker counts them for itself: those of a key
    whose SET slots are all in use, and those that come while there is no limit, so that they cost nothing then.
    """

    __slots__ = ("_columns", "_keys", "_keys_at", "_locks", "_mapping", "_slots", "_unentered")

    def __init__(self, mapping: mmap.mmap, keys: "memoryview[int]", keys_at: int, columns: Columns, locks: Locks) -> None:
        """`keys`: the memory as unsigned words; `keys_at`: the offset of the table of keys."""
        self._mapping = mapping
        self._keys = keys
        self._keys_at = keys_at
        self._columns = columns
        self._locks = locks
        self._slots: dict[int, int] = {}
        """The slots in which this worker counts something, by key."""
        self._unentered: Counter[int] = Counter()

    def total(self, key: int) -> int:
        """Return how many a key has, as far as this process can know."""
        slot = self._slots.get(key)
        if slot is not None:
            return self._columns.total(slot) + self._unentered[key]
        slot = self._find(key)
        total = 0 if slot is None else self._columns.total(slot)
        if slot is not None and self._keys[self._keys_at // WORD + slot] != key:  # it was given to another key meanwhile
            total = 0
        return total + self._unentered[key]

    def take(self, key: int, limit: int | None) -> bool:
        """Count one more, unless the key has `limit`. Return False also if that cannot be found out now."""
        slot = self._slots.get(key)
        if slot is not None:
            return self._columns.take(slot, limit, self._unentered[key])
        if limit is None:
            self._unentered[key] += 1
            return True
        return self._enter(key, limit)

    def enter(self, key: int) -> int | None:
        """Count one more, and return how many there are. None if that cannot be done now."""
        slot = self._slots.get(key)
        if slot is not None:
            self._columns.add(slot, 1)
        elif not self._enter(key, None):
            return None
        return self.total(key)

    def release(self, key: int) -> None:
        """Count one less."""
        if key in self._unentered:
            self._unentered[key] -= 1
            if not self._unentered[key]:
                del self._unentered[key]
            return
        slot = self._slots[key]
        if self._columns.own(slot) == 1:
            del self._slots[key]
        self._columns.add(slot, -1)

    def sweep(self, limit: int | None) -> None:
        """Enter some of what is not in the table, if there is a limit."""
        if limit is None:
            return
        for key in tuple(islice(self._unentered, PUBLISHED)):
            count = self._unentered.pop(key)
            if not self._enter(key, None, count):
                self._unentered[key] = count

    def _enter(self, key: int, limit: int | None, count: int = 1) -> bool:
        """Count the first of a key in this worker: find its slot, or give it one."""
        lock = self._keys_at + key % _SETS * _SET.size
        if not self._locks.acquire(lock):
            return False
        try:
            slot = self._find(key)
            if slot is None:
                slot = self._give_slot(key)
            if slot is None:
                if limit is not None and self._unentered[key] >= limit:
                    return False
                self._unentered[key] += count
                return True
            if limit is None:
                self._columns.add(slot, count)
            elif not self._columns.take(slot, limit, self._unentered[key]):
                return False
            self._slots[key] = slot
            return True
        finally:
            self._locks.release(lock)

    def _find(self, key: int) -> int | None:
        start = key % _SETS * SET
        keys = _SET.unpack_from(self._mapping, self._keys_at + start * WORD)
        return start + keys.index(key) if key in keys else None

    def _give_slot(self, key: int) -> int | None:
        """Give a free slot to a key; None if there is none. The lock is held, without which no slot of the set is given."""
        start = key % _SETS * SET
        for slot in range(start, start + SET):
            at = self._keys_at // WORD + slot
            if not self._keys[at] or not self._columns.total(slot):
                self._keys[at] = key
                return slot
        return None
