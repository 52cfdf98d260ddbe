"""The ports of children in all workers."""

from scalesocket.shared_memory.columns import Columns


class SharedPorts:
    """The reserved ports (`backends.ports.PortTable`)."""

    def __init__(self, columns: Columns) -> None:
        """`columns`: a number for each port."""
        self._columns = columns

    def reserve(self, port: int) -> bool:
        """Reserve a port. Return False if a room has it, or that cannot be found out now."""
        return not self._columns.total(port) and self._columns.take(port, 1)

    def release(self, port: int) -> None:
        """Release a reserved port."""
        self._columns.add(port, -1)
