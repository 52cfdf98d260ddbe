"""Where everything is in the shared memory. All offsets are in bytes.

First what all workers write, then a column for each worker, which it alone writes.
"""

from typing import Final

PAGE: Final = 4096
WORD: Final = 8
MAX_APPS: Final = 1024
"""Apps that are counted over all workers, removed ones with rooms included. Each worker counts further ones for itself."""
SLOTS: Final = 131_072
"""Addresses in each table: twice as many as a single process remembers, because an address can have SET of the slots only."""
SET: Final = 8
"""Slots that an address can have. If all are in use, it takes that of the least recent, or each worker counts it for itself."""
PAIR: Final = 3 * WORD
"""A key with two numbers."""
MAX_PORTS: Final = 65_536

WORKERS_AT: Final = 0
"""The number of workers."""
KEY_AT: Final = WORD
"""16 random bytes."""
IDS_AT: Final = PAGE
"""By worker: the ids of clients that it has reserved. Not in its column, because they outlive it."""
APP_KEYS_AT: Final = 2 * PAGE
"""By slot: the app that has it."""
APP_BUCKETS_AT: Final = APP_KEYS_AT + MAX_APPS * WORD
"""By slot of an app: the token bucket of `room_rate.total`."""
ADDRESS_KEYS_AT: Final = APP_BUCKETS_AT + MAX_APPS * 2 * WORD
"""The address of each slot, whose counts are in the columns."""
UPGRADES_AT: Final = ADDRESS_KEYS_AT + SLOTS * WORD
"""Token buckets of `connect_rate`."""
OPENINGS_AT: Final = UPGRADES_AT + SLOTS * PAIR
"""Token buckets of `room_rate`."""
FAILURES_AT: Final = OPENINGS_AT + SLOTS * PAIR
"""Failed attempts."""
COLUMNS_AT: Final = FAILURES_AT + SLOTS * PAIR

# In a column:
PLACES: Final = 0
"""Connections of the server; then for each slot of an app its use, its connections and its rooms: 64 bits each."""
ADDRESS_COUNTS: Final = -(-(1 + 3 * MAX_APPS) * WORD // PAGE) * PAGE
"""By slot of an address: 32 bits each."""
PORTS: Final = ADDRESS_COUNTS + SLOTS * 4
"""By port: a byte each."""
COLUMN: Final = PORTS + MAX_PORTS


def size_of(workers: int) -> int:
    """Return the bytes for so many workers: 10 MiB, and 0.6 MiB for each. Only pages that were written take memory."""
    return COLUMNS_AT + workers * COLUMN
