"""Keeps the exception of one cleanup step from the steps that follow."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


@contextmanager
def logged_faults(step: str, **keys: object) -> Iterator[None]:
    """Log an exception of the block and go on after it.

    For cleanups, and for steps that cannot be undone. `step` is what failed, for the log.
    """
    try:
        yield
    except Exception:
        log.exception(f"{step} failed", **keys)
