"""The slots of apps: which rows of the columns count the connections and the rooms of an app."""

from typing import Final

from scalesocket.shared_memory.columns import Columns, SharedPlaces
from scalesocket.shared_memory.layout import APP_BUCKETS_AT, APP_KEYS_AT, MAX_APPS, WORD
from scalesocket.shared_memory.locks import Locks

OPEN_WAIT: Final = 0.25
"""Seconds to wait for the lock, at a start or an edit: all workers open all their apps at the same time."""


class AppSlots:
    """Which app has which slot. An app keeps its slot while a worker uses it; then another app may have it."""

    def __init__(self, words: "memoryview[int]", places: Columns, locks: Locks) -> None:
        """`words`: the memory as unsigned words. `places`: the rows of the columns."""
        self._words = words
        self._places = places
        self._locks = locks

    def open(self, key: int) -> "AppSlot | None":
        """Use the slot of the app whose hash is `key`. None if there is none left."""
        if not self._locks.acquire(APP_KEYS_AT, OPEN_WAIT):
            return None
        try:
            keys = self._words[APP_KEYS_AT // WORD : APP_KEYS_AT // WORD + MAX_APPS].tolist()
            index = keys.index(key) if key in keys else self._give(key)
            if index is None:
                return None
            slot = AppSlot(self._places, index)
            slot.use()
            return slot
        finally:
            self._locks.release(APP_KEYS_AT)

    def _give(self, key: int) -> int | None:
        for index in range(MAX_APPS):
            if not self._places.total(1 + 3 * index):
                self._words[APP_KEYS_AT // WORD + index] = key
                bucket = APP_BUCKETS_AT // WORD + 2 * index
                self._words[bucket] = self._words[bucket + 1] = 0
                return index
        return None


class AppSlot:
    """A slot that this worker uses."""

    def __init__(self, places: Columns, index: int) -> None:
        self._places = places
        self._row = 1 + 3 * index
        self.connections = SharedPlaces(places, self._row + 1)
        self.rooms = SharedPlaces(places, self._row + 2)
        self.bucket_at = APP_BUCKETS_AT + index * 2 * WORD
        """The offset of the token bucket of `room_rate.total`."""

    def use(self) -> None:
        """Keep the slot."""
        self._places.add(self._row, 1)

    def close(self) -> None:
        """Use it no more."""
        self._places.add(self._row, -1)
