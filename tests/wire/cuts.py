"""Ways to cut a stream into chunks."""

from collections.abc import Iterator
from itertools import pairwise


def every_cut(stream: bytes) -> Iterator[list[bytes]]:
    """Yield the stream whole, byte by byte, and cut in two at every place."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Cut the stream at these places, modulo its length."""
    at = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[begin:end] for begin, end in pairwise(at)]
