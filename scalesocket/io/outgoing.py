"""The queue of unsent bytes of a descriptor."""

import os
from collections import deque
from itertools import islice
from typing import Final

MAX_VECTOR: Final = 64
"""Pieces in one call of writev."""


class Outgoing:
    """A queue of pieces for one descriptor. Unbounded: the writer checks `size`."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | memoryview] = deque()
        self.size = 0
        """Bytes in the queue."""

    def append(self, piece: bytes | memoryview) -> None:
        """Add a piece to the end."""
        self._pieces.append(piece)
        self.size += len(piece)

    def clear(self) -> None:
        """Discard everything."""
        self._pieces.clear()
        self.size = 0

    def reclaim(self) -> list[bytes]:
        """Remove and return the pieces as they were added, except one that was sent in part."""
        left = [piece for piece in self._pieces if not isinstance(piece, memoryview)]
        self.clear()
        return left

    def write(self, fd: int) -> None:
        """Write until the queue is empty or the descriptor would block. Raises OSError, but not BlockingIOError."""
        pieces = self._pieces
        while pieces:
            try:
                taken = os.write(fd, pieces[0]) if len(pieces) == 1 else os.writev(fd, list(islice(pieces, MAX_VECTOR)))
            except BlockingIOError:
                return
            if taken == self.size:
                self.clear()
            else:
                self._drop(taken)

    def _drop(self, count: int) -> None:
        """Drop `count` bytes from the front."""
        pieces = self._pieces
        self.size -= count
        while count:
            size = len(pieces[0])
            if count < size:
                pieces[0] = memoryview(pieces[0])[count:]
                return
            pieces.popleft()
            count -= size
