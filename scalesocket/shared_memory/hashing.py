"""Numbers that stand for an address, or for an app."""

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

CACHED: Final = 8192

Hash = Callable[[str, str, str], int]
"""Returns the hash of a kind, an app, and an address block: 64 bits, never 0."""


def make_hash(key: bytes) -> Hash:
    """Return the hash under a random key, so that no one can choose addresses that collide in a table."""

    @lru_cache(maxsize=CACHED)
    def hash_of(kind: str, app: str, block: str) -> int:
        digest = blake2b(f"{kind}\0{app}\0{block}".encode(errors="surrogatepass"), key=key, digest_size=8).digest()
        return int.from_bytes(digest, "little") or 1

    return hash_of
