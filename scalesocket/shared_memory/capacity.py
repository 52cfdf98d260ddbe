"""What a worker counts together with the others (`scalesocket.capacity.capacity.Capacity`)."""

from collections.abc import Iterator
from typing import Literal

import structlog

from scalesocket.capacity.capacity import AppCapacity
from scalesocket.capacity.local import LocalAppCapacity
from scalesocket.shared_memory.address_counts import AddressCounts
from scalesocket.shared_memory.addresses import (
    SharedAddressLimits,
    SharedBuckets,
    SharedDeciding,
    SharedFailures,
    SharedOpeningRate,
)
from scalesocket.shared_memory.apps import AppSlot, AppSlots
from scalesocket.shared_memory.columns import Columns, SharedPlaces
from scalesocket.shared_memory.hashing import make_hash
from scalesocket.shared_memory.ids import reserve_ids
from scalesocket.shared_memory.layout import (
    ADDRESS_COUNTS,
    ADDRESS_KEYS_AT,
    FAILURES_AT,
    MAX_APPS,
    OPENINGS_AT,
    PLACES,
    PORTS,
    UPGRADES_AT,
)
from scalesocket.shared_memory.locks import Locks
from scalesocket.shared_memory.memory import SharedMemory
from scalesocket.shared_memory.pairs import PairTable
from scalesocket.shared_memory.ports import SharedPorts

log = structlog.get_logger("workers")


class SharedCapacity:
    """All of it, for one worker."""

    def __init__(self, memory: SharedMemory, worker: int) -> None:
        """Count in the column of `worker`, which is empty, in memory that this process has opened."""
        self.workers = memory.workers
        self._mapping = memory.mapping
        self._locks = Locks(memory.fd)
        self._hash = make_hash(memory.key)
        self._words = memory.view("Q")
        places = self._columns(memory, "q", PLACES, worker)
        self._apps = AppSlots(self._words, places, self._locks)
        counts = self._columns(memory, "I", ADDRESS_COUNTS, worker)
        self._counts = AddressCounts(self._mapping, self._words, ADDRESS_KEYS_AT, counts, self._locks)
        self._openings = PairTable(self._mapping, OPENINGS_AT, self._locks)
        self._failures = PairTable(self._mapping, FAILURES_AT, self._locks)
        self.connections = SharedPlaces(places, 0)
        upgrades = SharedBuckets(PairTable(self._mapping, UPGRADES_AT, self._locks), self._hash)
        self.addresses = SharedAddressLimits(self._counts, upgrades, self._hash)
        self.client_ids: Iterator[int] = reserve_ids(self._words, workers=memory.workers, worker=worker)
        self.ports = SharedPorts(self._columns(memory, "B", PORTS, worker))

    def open_app(self, name: str) -> AppCapacity:
        """Count what an app has; the caller closes the result."""
        slot = self._apps.open(self._hash("app", name, ""))
        if slot is None:
            log.error("limits of an app count in each worker alone", app=name, hint=f"the server counts at most {MAX_APPS} apps")
            return LocalAppCapacity()
        buckets = SharedBuckets(self._openings, self._hash, name)
        return SharedAppCapacity(slot, SharedOpeningRate(self._mapping, slot.bucket_at, buckets, self._locks))

    def failed(self, app: str) -> SharedFailures:
        """Return the failed attempts to enter an app."""
        return SharedFailures(self._failures, self._hash, app)

    def deciding(self, app: str) -> SharedDeciding:
        """Return the attempts to enter an app that are being decided."""
        return SharedDeciding(self._counts, self._hash, app)

    def _columns(self, memory: SharedMemory, form: Literal["B", "I", "q"], part: int, worker: int) -> Columns:
        return Columns(memory.view(form), part, workers=memory.workers, worker=worker, locks=self._locks)


class SharedAppCapacity:
    """What is counted of one app (`capacity.AppCapacity`)."""

    def __init__(self, slot: AppSlot, openings: SharedOpeningRate) -> None:
        self.connections = slot.connections
        self.rooms = slot.rooms
        self.openings = openings
        self._slot = slot

    def close(self) -> None:
        """Stop counting."""
        self._slot.close()
