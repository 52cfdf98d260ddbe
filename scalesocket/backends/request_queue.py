"""Requests for the spawner that wait until the kernel takes them."""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from scalesocket.backends.spawner.protocol import encode
from scalesocket.backends.spawner_process import SpawnerProcess

Request = dict[str, object]
FILES_HINT: Final = "too many open files: it is not shut down if the gateway is stopped when its lease ends"

log = structlog.get_logger()


class RequestQueue:
    """Requests to send before any start, each with a descriptor of its own to send; at most a few for each child or target."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[bytes, int | None]] = deque()

    def add(self, request: Request, fd: int | None = None) -> None:
        """Queue a request, with a copy of a descriptor. Raises OSError if none is left."""
        self._waiting.append((encode(request), None if fd is None else os.dup(fd)))

    def extend(self, requests: Iterable[tuple[Request, int | None]]) -> None:
        """Queue requests."""
        for request, fd in requests:
            self.add(request, fd)

    def send(self, process: SpawnerProcess, on_writable: Callable[[], None]) -> bool:
        """Send all; False if the kernel does not take them, and `on_writable` is called once it does.

        Raises OSError as `SpawnerProcess.send` does.
        """
        while self._waiting:
            packet, fd = self._waiting[0]
            try:
                if not process.send(packet, on_writable, fd):
                    return False
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                log.error("connection to a target not guarded", hint=FILES_HINT)
            self._waiting.popleft()
            if fd is not None:
                os.close(fd)
        return True

    def clear(self) -> None:
        """Drop all."""
        for _, fd in self._waiting:
            if fd is not None:
                os.close(fd)
        self._waiting.clear()
