"""One worker only: a room is one process, and two workers would each have their own."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalesocket.errors import ScalesocketError


@contextmanager
def claim_only_worker(site_file: Path) -> Iterator[None]:
    """Hold the claim to be the only worker of this server that serves `site_file`.

    Raises ScalesocketError when a sibling (a process with the same parent) holds it. The kernel frees it when the process
    ends, however it ends.
    """
    name = hashlib.sha256(f"{os.getppid()}:{site_file.resolve()}".encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"scalesocket-{os.getuid()}-{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScalesocketError(
                f"{site_file}: another worker serves it (run hypercorn with one worker: each room is one process)"
            ) from None
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
