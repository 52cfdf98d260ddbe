"""What the gateway takes over when a spawner dies: its children, its guardian, and the orphans that it would have reaped."""

import asyncio
import time
from collections.abc import Callable

import structlog

from scalesocket.backends.adopted_children import AdoptedChildren
from scalesocket.backends.child import Child
from scalesocket.backends.child_table import ChildTable
from scalesocket.backends.guardian_pipe import GuardianPipe
from scalesocket.backends.orphan_reaper import OrphanReaper
from scalesocket.backends.process_groups import find_unreported_children
from scalesocket.backends.spawner_process import SpawnerProcess

log = structlog.get_logger()


class SpawnerRecovery:
    """Keeps running children alive and guarded while one spawner replaces another."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        children: ChildTable,
        *,
        is_own: Callable[[int], bool],
    ) -> None:
        """`children`: the client's table. `is_own`: whether a pid is that of the current spawner or its guardian."""
        self._loop = loop
        self._children = children
        self._is_own = is_own
        self._adopted = AdoptedChildren(loop, children.remove)
        self._orphan_reaper = OrphanReaper(loop, is_known=self._is_known, has_adopted=lambda: len(self._adopted) > 0)
        self._previous_guardian: GuardianPipe | None = None
        """Of the last spawner that watched all children, until the current one does."""

    def __contains__(self, pid: int) -> bool:
        """Whether this is an adopted child whose group is not reaped yet."""
        return pid in self._adopted

    def keep_guardian(self, dead: SpawnerProcess) -> None:
        """Keep the guardian of a dead spawner until `note_watching`, unless an older one covers all of its children."""
        if dead.is_watching_all:
            self._previous_guardian = dead.guardian_pipe
        else:  # it died before it started any
            dead.guardian_pipe.end_guardian()

    def silence_guardian(self) -> None:
        """Leave the last word to a new spawner, which may start children that the kept guardian does not know."""
        if self._previous_guardian is not None:
            self._previous_guardian.silence()

    def note_watching(self) -> None:
        """End the kept guardian: the one of the current spawner covers all children."""
        if self._previous_guardian is not None:
            self._previous_guardian.end_guardian()
            self._previous_guardian = None

    def adopt_children(self, dead: SpawnerProcess, *, first_sent_at: float | None) -> None:
        """Watch the children of a dead spawner; kill those that it did not report.

        `first_sent_at`: when the oldest start that it has not answered was sent, in the loop's time; None if there is none.
        """
        unreported = [] if first_sent_at is None else self._find_unreported(dead.pid, first_sent_at)
        for child in tuple(self._children.by_pid.values()):
            if child.pid not in self._adopted:
                self._adopted.adopt(child)
        for pid in unreported:
            child = self._children.add(pid)
            self._adopted.adopt(child)
            child.release()
        self._orphan_reaper.start()

    def reap(self, child: Child) -> None:
        """Reap the killed group of an adopted child, now or as soon as it has ended."""
        self._adopted.reap(child)

    def close(self) -> None:
        """End the kept guardian, look for no more orphans, and kill and reap the groups of adopted children at once."""
        self._orphan_reaper.close()
        self.note_watching()
        for pid in tuple(self._children.by_pid):
            if pid in self._adopted:
                self._adopted.kill(pid)

    def _find_unreported(self, spawner: int, first_sent_at: float) -> list[int]:
        since = time.clock_gettime(time.CLOCK_BOOTTIME) - (self._loop.time() - first_sent_at) - 1.0
        try:
            return find_unreported_children(spawner, self._is_known, since)
        except OSError as error:
            log.error("search for children of the dead spawner failed", pid=spawner, error=str(error))
            return []

    def _is_known(self, pid: int) -> bool:
        """Whether this is a process that others than the OrphanReaper reap."""
        previous = self._previous_guardian.guardian if self._previous_guardian is not None else 0
        return pid in self._children.by_pid or self._is_own(pid) or pid == previous
