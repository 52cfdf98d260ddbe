"""Warnings about other nodes, which each client or peer can cause: each kind at most once a minute."""

import time
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger("cluster")

INTERVAL: Final = 60.0
"""Seconds between two warnings of one kind about one node."""
MAX_KINDS: Final = 1000
"""Kinds that are remembered."""


class SparseLog:
    """Logs a warning, unless it has logged one of the same kind lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[tuple[str, str], float] = {}

    def warn(self, event: str, about: str = "", /, **more: object) -> None:
        """Log a warning. `about`: the node, if each is to be logged by itself."""
        now, kind = self._clock(), (event, about)
        if now - self._logged_at.get(kind, float("-inf")) < INTERVAL:
            return
        if len(self._logged_at) >= MAX_KINDS:
            self._logged_at.clear()
        self._logged_at[kind] = now
        log.warning(event, **more)
