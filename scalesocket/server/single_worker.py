"""Refuses a second worker under a stock Hypercorn: each would start its own process for the same room."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalesocket.errors import ScalesocketError


@contextmanager
def lock_single_worker(site_file: Path) -> Iterator[None]:
    """Hold the lock of the only worker that serves `site_file` under this server.

    Raises ScalesocketError if a sibling (a process with the same parent) holds it. The kernel releases the lock when the process
    ends for any reason.
    """
    name = hashlib.sha256(f"{os.getppid()}:{site_file.resolve()}".encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"scalesocket-{os.getuid()}-{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScalesocketError(
                f"{site_file}: another worker already serves it (run hypercorn with one worker: each room is one process)"
            ) from None
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
