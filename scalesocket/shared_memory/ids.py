"""The ids of clients: each worker has every so many-th number, so that no two workers have the same."""

from collections.abc import Iterator
from typing import Final

from scalesocket.shared_memory.layout import IDS_AT, WORD

RESERVED: Final = 256
"""Ids that a worker reserves at a time; what it has not used when it dies is lost."""


def reserve_ids(words: "memoryview[int]", *, workers: int, worker: int) -> Iterator[int]:
    """Yield ids of a worker, in ascending order: numbers that neither another worker nor a predecessor has. No lock is needed."""
    at = IDS_AT // WORD + worker
    while True:
        first = words[at]
        words[at] = first + RESERVED
        yield from range(first * workers + worker + 1, (first + RESERVED) * workers + worker + 1, workers)
