"""Ways to cut a stream, to be unkind to whatever reads it."""

from collections.abc import Iterator
from itertools import pairwise


def every_cut(stream: bytes) -> Iterator[list[bytes]]:
    """The stream in one piece, byte by byte, and in two pieces for each place to cut it."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream cut at these places, taken modulo its length."""
    at = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[begin:end] for begin, end in pairwise(at)]
