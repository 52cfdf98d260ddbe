"""Runs each of several steps although others fail."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


@contextmanager
def logged_faults(step: str, **keys: object) -> Iterator[None]:
    """Log an exception and continue after the block, so that one failure does not stop the steps that follow.

    For cleanups, and for steps that can't be taken back. `step` names in the log what failed.
    """
    try:
        yield
    except Exception:
        log.exception(f"{step} failed", **keys)
