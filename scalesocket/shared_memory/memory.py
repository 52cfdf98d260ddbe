"""The mapping that all workers share. The supervisor makes it, and each worker opens it."""

import mmap
import os
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, fcntl
from typing import Final, Literal

from scalesocket.errors import ScalesocketError
from scalesocket.shared_memory.layout import COLUMN, COLUMNS_AT, KEY_AT, WORD, WORKERS_AT, size_of

KEY_SIZE: Final = 16


class SharedMemoryError(ScalesocketError):
    """The memory cannot be made or opened."""


class SharedMemory:
    """The mapping, in one process."""

    def __init__(self, fd: int, workers: int) -> None:
        """Map the file `fd`, which belongs to this object, for so many workers."""
        self.fd = fd
        self.workers = workers
        self.mapping = mmap.mmap(fd, size_of(workers))
        self._views: list[memoryview[int]] = []

    @classmethod
    def create(cls, workers: int) -> "SharedMemory":
        """Make it, in the supervisor. Its descriptor is not inherited. Raises SharedMemoryError."""
        try:
            fd = os.memfd_create("scalesocket-limits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size_of(workers))
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
            memory = cls(fd, workers)
        except OSError as error:
            raise SharedMemoryError(f"server.workers: cannot share memory ({error.strerror})") from error
        memory.mapping[WORKERS_AT : WORKERS_AT + WORD] = workers.to_bytes(WORD, "little")
        memory.mapping[KEY_AT : KEY_AT + KEY_SIZE] = os.urandom(KEY_SIZE)
        return memory

    @classmethod
    def open(cls, fd: int) -> "SharedMemory":
        """Open it in a worker by an inherited descriptor, which the caller may close. Raises SharedMemoryError.

        The worker needs an open file description of its own, because locks belong to that (`F_OFD_SETLK`).
        """
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            return cls(own, int.from_bytes(os.pread(own, WORD, WORKERS_AT), "little"))
        except OSError as error:
            raise SharedMemoryError(f"server.workers: cannot open the shared memory ({error.strerror})") from error

    @property
    def key(self) -> bytes:
        """Random, and known to the processes of this server only."""
        return self.mapping[KEY_AT : KEY_AT + KEY_SIZE]

    def view(self, form: Literal["B", "I", "q", "Q"]) -> "memoryview[int]":
        """Return all of it as numbers of one format. Reading and writing one of them is atomic: it is one aligned access."""
        view = memoryview(self.mapping).cast(form)
        self._views.append(view)
        return view

    def clear_worker(self, worker: int) -> None:
        """Clear the column of a worker that has ended, in the supervisor, before its successor starts."""
        self.mapping.madvise(mmap.MADV_REMOVE, COLUMNS_AT + worker * COLUMN, COLUMN)

    def close(self) -> None:
        """Unmap it, and release what this process has locked."""
        for view in self._views:
            view.release()
        self.mapping.close()
        os.close(self.fd)
