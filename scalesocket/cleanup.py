"""Steps that are all done, whatever becomes of the others."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


@contextmanager
def logged_faults(step: str, **keys: object) -> Iterator[None]:
    """Log an exception, and go on behind the block: one failure must not keep the rest from being done.

    For cleanups, and for steps that can't be taken back. `step` says in the log what failed.
    """
    try:
        yield
    except Exception:
        log.exception(f"{step} failed", **keys)
