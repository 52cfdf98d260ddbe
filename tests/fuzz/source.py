"""Reads choices and a stream from the bytes of a fuzzer."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Takes choices from the front of the input; what is left is the input proper. When nothing is left, choices are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self) -> int:
        """Take a number from 0 to 255."""
        taken = self._data[:1]
        self._data = self._data[1:]
        return taken[0] if taken else 0

    def choose(self, options: Sequence[T]) -> T:
        return options[self.number() % len(options)]

    def flag(self) -> bool:
        return bool(self.number() & 1)

    def rest(self) -> bytes:
        return self._data

    def part(self) -> bytes:
        """Take what comes before the next zero byte."""
        taken, _, self._data = self._data.partition(b"\0")
        return taken

    def chunks(self) -> list[bytes]:
        """Take a size, and the rest in chunks of it; 0 is one chunk. None is empty."""
        size = self.number() or max(1, len(self._data))
        return [self._data[at : at + size] for at in range(0, len(self._data), size)]
