"""Numbers of which each worker has its own: the rows of its column. A limit counts their sum.

A worker writes its own column only, so nothing needs a lock until a limit is near. Then this decides exactly, by these rules:

- A process that takes a place counts itself first, and reads the sum after that. So the last one admitted has seen all the
  others.
- Without the lock it is admitted only if the sum leaves `slack`: more than what other workers may have written just now, and this
  CPU does not see yet. Of that there is at most one number each.
- With the lock it is admitted up to the limit. Two that take the last place at the same time find each other in the sum; then
  they take the lock one after the other, and one of them is admitted.
"""

from scalesocket.shared_memory.layout import COLUMN, COLUMNS_AT
from scalesocket.shared_memory.locks import Locks


class Columns:
    """A part of all columns: so many numbers of one format."""

    __slots__ = ("_base", "_itemsize", "_locks", "_own", "_slack", "_span", "_start", "_stride", "_view")

    def __init__(self, view: "memoryview[int]", part: int, *, workers: int, worker: int, locks: Locks) -> None:
        """`view`: the whole memory as numbers of their format. `part`: where they are in a column. Write those of `worker`."""
        self._view = view
        self._itemsize = view.itemsize
        self._base = COLUMNS_AT + part
        self._start = self._base // view.itemsize
        self._stride = COLUMN // view.itemsize
        self._span = workers * self._stride
        self._own = self._start + worker * self._stride
        self._slack = 2 * workers
        self._locks = locks

    def total(self, row: int) -> int:
        """Return the sum over all workers."""
        first = self._start + row
        return sum(self._view[first : first + self._span : self._stride].tolist())

    def own(self, row: int) -> int:
        """Return the number of this worker."""
        return self._view[self._own + row]

    def add(self, row: int, number: int) -> None:
        """Add to the number of this worker."""
        self._view[self._own + row] += number

    def take(self, row: int, limit: int | None, besides: int = 0) -> bool:
        """Add 1 if the sum, and what is counted `besides`, then is at most `limit`. Return whether it was added."""
        if limit is None:
            self._view[self._own + row] += 1
            return True
        limit -= besides
        if self.total(row) + self._slack < limit:
            self._view[self._own + row] += 1
            if self.total(row) + self._slack <= limit:
                return True
            self._view[self._own + row] -= 1
        at = self._base + row * self._itemsize
        if not self._locks.acquire(at):
            return False
        try:
            if self.total(row) >= limit:
                return False
            self._view[self._own + row] += 1
            if self.total(row) <= limit:
                return True
            self._view[self._own + row] -= 1
            return False
        finally:
            self._locks.release(at)


class SharedPlaces:
    """Places of one kind (`capacity.Places`): one row."""

    __slots__ = ("_columns", "_row")

    def __init__(self, columns: Columns, row: int) -> None:
        self._columns = columns
        self._row = row

    @property
    def taken(self) -> int:
        """The places that are taken by all workers."""
        return self._columns.total(self._row)

    @property
    def own(self) -> int:
        """Those of them that this worker has taken."""
        return self._columns.own(self._row)

    def take(self, limit: int | None) -> bool:
        """Take a place, unless `limit` are taken."""
        return self._columns.take(self._row, limit)

    def release(self) -> None:
        """Release a place."""
        self._columns.add(self._row, -1)
