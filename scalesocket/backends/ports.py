"""The TCP ports that children listen on, and which of them are in use by rooms."""

import os
import socket
from itertools import chain
from typing import Final, Protocol

from scalesocket.errors import BackendError

LOOPBACK: Final = "127.0.0.1"
MAX_ATTEMPTS: Final = 64
"""Requests for a free port. The kernel may return that of a room whose process does not listen yet."""


class PortTable(Protocol):
    """Which ports rooms have reserved."""

    def reserve(self, port: int) -> bool:
        """Reserve a port. Return False if a room has it."""

    def release(self, port: int) -> None:
        """Release a reserved port."""


class LocalPorts:
    """The reserved ports in a server of one process (`PortTable`)."""

    def __init__(self) -> None:
        self._reserved: set[int] = set()

    def reserve(self, port: int) -> bool:
        """Reserve a port, unless a room has it."""
        if port in self._reserved:
            return False
        self._reserved.add(port)
        return True

    def release(self, port: int) -> None:
        """Release a reserved port."""
        self._reserved.remove(port)


class Ports:
    """The ports in use by the rooms of this process."""

    def __init__(self, table: PortTable | None = None) -> None:
        """Reserve ports in `table`, which other processes may share; None: alone."""
        self._table = LocalPorts() if table is None else table
        self._taken: set[int] = set()
        self._latest = 0

    @property
    def taken(self) -> frozenset[int]:
        """The ports of the rooms."""
        return frozenset(self._taken)

    def take(self, first: int, last: int) -> int:
        """Reserve a free port from `first` to `last`, both included; 0 and 0 for any.

        A range is used in rotation, because a port that was just released may have connections in TIME_WAIT.
        Raises BackendError if no port is free, or no descriptor is left for the check.
        """
        try:
            port = self._find_any() if first == 0 else self._find(first, last)
        except OSError as error:
            raise BackendError(f"cannot look for a free port: {os.strerror(error.errno or 0).lower()}") from error
        self._taken.add(port)
        return port

    def release(self, port: int) -> None:
        """Release a port."""
        self._taken.remove(port)
        self._table.release(port)

    def _find(self, first: int, last: int) -> int:
        start = self._latest + 1 if first <= self._latest < last else first
        for port in chain(range(start, last + 1), range(first, start)):
            if self._reserve(port):
                self._latest = port
                return port
        raise BackendError(f"no port is free in {first}-{last}" if first != last else f"port {first} is not free")

    def _find_any(self) -> int:
        for _ in range(MAX_ATTEMPTS):
            with socket.socket() as probe:
                probe.bind((LOOPBACK, 0))
                port: int = probe.getsockname()[1]
            if self._table.reserve(port):
                return port
        raise BackendError("the kernel has no free port")

    def _reserve(self, port: int) -> bool:
        """Reserve a port if no room has it and a child could listen on it. Raises OSError."""
        if not self._table.reserve(port):
            return False
        is_reserved = False
        try:
            is_reserved = is_free(port)
        finally:
            if not is_reserved:
                self._table.release(port)
        return is_reserved


def is_free(port: int) -> bool:
    """Whether a child could listen on this port now, if it sets SO_REUSEADDR. Raises OSError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
