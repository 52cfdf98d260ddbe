"""Bytes that a descriptor has not taken yet."""

import os
from collections import deque
from itertools import islice
from typing import Final

MAX_VECTOR: Final = 64
"""Pieces given to one writev."""


class Outgoing:
    """A queue of pieces for one descriptor. It has no bound of its own: who fills it looks at `size`."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | memoryview] = deque()
        self.size = 0
        """Bytes that wait."""

    def append(self, piece: bytes | memoryview) -> None:
        """Add a piece at the end."""
        self._pieces.append(piece)
        self.size += len(piece)

    def clear(self) -> None:
        """Forget all that waits."""
        self._pieces.clear()
        self.size = 0

    def reclaim(self) -> list[bytes]:
        """Take back what waits, as it was added, but for a piece whose beginning was taken."""
        left = [piece for piece in self._pieces if not isinstance(piece, memoryview)]
        self.clear()
        return left

    def write(self, fd: int) -> None:
        """Write as much as the descriptor takes. Raises OSError if it takes nothing any more, and never BlockingIOError."""
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
