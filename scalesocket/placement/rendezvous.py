"""Rendezvous hashing: which worker owns a room, without a table or a request. Pure."""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

CACHED: Final = 16_384
"""Rooms whose owner is remembered: a hash for each worker takes 1 us."""
KEY_SIZE: Final = 32
"""Bytes of the key."""


class Rendezvous:
    """Assigns each room to one of a fixed number of workers, the same in every process with the same key."""

    def __init__(self, workers: int, key: bytes) -> None:
        """Assign rooms to workers 0 to `workers - 1`.

        `key`: random, made at each start of the server. So no one can choose names of rooms that all have the same owner.
        """
        if workers < 1:
            raise ValueError("there must be a worker")
        self.workers = workers
        self._key = key
        self._cached = lru_cache(CACHED)(self._find_owner)

    def owner_of(self, app: str, room: str) -> int:
        """Return the index of the worker that owns a room."""
        return self._cached(app, room)

    def _find_owner(self, app: str, room: str) -> int:
        name = app.encode()
        text = len(name).to_bytes(4, "big") + name + room.encode()
        return max(range(self.workers), key=lambda index: self._weigh(text, index))

    def _weigh(self, text: bytes, index: int) -> bytes:
        return blake2b(text, digest_size=8, key=self._key, salt=index.to_bytes(4, "big")).digest()
