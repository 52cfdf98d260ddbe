"""The table of children that the gateway started: each from the spawner's answer until its whole group is reaped."""

import signal
from collections.abc import Callable, Iterator
from typing import Final

from scalesocket.backends.child import Child
from scalesocket.io.poller import Poller

WATCHED_PER_REQUEST: Final = 1000
"""Groups in one `watch` request."""


class ChildTable:
    """The children that are not yet released and reaped, whichever spawner started them."""

    def __init__(self, on_release: Callable[[Child], None]) -> None:
        """`on_release`: has the group of a killed child reaped."""
        self.by_pid: dict[int, Child] = {}
        self.poller: Poller | None = None
        """Watches the pipes of children; set before the first is added."""
        self._on_release = on_release

    def add(self, pid: int, stdin: int = -1, stdout: int = -1, stderr: int = -1) -> Child:
        """Add a child, with its pipes if there are any."""
        assert self.poller is not None
        child = self.by_pid[pid] = Child(pid, stdin, stdout, stderr, poller=self.poller, on_release=self._on_release)
        return child

    def remove(self, child: Child) -> None:
        """Remove a child whose group is reaped."""
        del self.by_pid[child.pid]
        child.note_released()

    def note_exit(self, pid: int, status: int) -> None:
        """Note that a child has ended, with a status as in subprocess."""
        if pid in self.by_pid:
            self.by_pid[pid].note_exit(status)

    def note_released(self, pid: int, status: int) -> None:
        """Note that a child has ended and that its group is reaped."""
        if pid in self.by_pid:
            self.by_pid[pid].note_exit(status)
            self.remove(self.by_pid[pid])

    def note_all_killed(self) -> None:
        """Remove all children: nothing of their groups is left."""
        for child in tuple(self.by_pid.values()):
            child.is_released = True
            child.note_exit(-signal.SIGKILL)
            self.remove(child)

    def watch_requests(self) -> Iterator[dict[str, object]]:
        """The requests by which a new spawner learns the groups that others started (spawner/protocol.py)."""
        groups = [child.pid for child in self.by_pid.values() if not child.is_released]
        for first in range(0, len(groups), WATCHED_PER_REQUEST):
            yield {"do": "watch", "pids": groups[first : first + WATCHED_PER_REQUEST]}
