"""The acts of all backends of a cluster, in the order in which they happened, and what must hold for them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

NANOSECONDS: Final = 1_000_000_000


class Act(NamedTuple):
    """One line of the log of tests/programs/acts.py."""

    at: float
    """Seconds of CLOCK_BOOTTIME."""
    room: str
    fence: int
    node: str
    pid: int
    what: str

    @classmethod
    def parse(cls, line: str) -> Self:
        at, room, fence, node, pid, what = line.split(" ", 5)
        return cls(int(at) / NANOSECONDS, room, int(fence), node, int(pid), what)


class Acts:
    """Reads the log, part by part. Appended writes of one file have an order: that of its lines."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.all: list[Act] = []
        self._offset = 0

    def read(self) -> list[Act]:
        """Read what was appended; return all acts."""
        with self.path.open("rb") as log:
            log.seek(self._offset)
            chunk = log.read()
        complete = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(complete)
        self.all += map(Act.parse, complete.decode().splitlines())
        return self.all

    def last_owner(self, room: str) -> Act | None:
        """The last act of a room."""
        return next((act for act in reversed(self.read()) if act.room == room), None)

    def find_faults(self, rooms: Sequence[str] | None = None) -> list[str]:
        """Return what must not be, whatever happens; for `rooms`, none of whose backends was killed, also who has not left."""
        acts = self.read()
        return [
            *(f"an act of an older fence: {act}, after {newer}" for act, newer in find_overlaps(acts)),
            *(f"fence {fence} with several backends: {backends}" for fence, backends in find_shared_fences(acts).items()),
            *find_wrong_leaves(acts, rooms or ()),
        ]


def find_overlaps(acts: Iterable[Act]) -> Iterator[tuple[Act, Act]]:
    """Yield each act after one with a newer fence of the same room, with that one."""
    newest: dict[str, Act] = {}
    for act in acts:
        newer = newest.setdefault(act.room, act)
        if act.fence < newer.fence:
            yield act, newer
        elif act.fence > newer.fence:
            newest[act.room] = act


def find_shared_fences(acts: Iterable[Act]) -> dict[int, set[tuple[str, str, int]]]:
    """Return the fences that more than one backend had."""
    backends: defaultdict[int, set[tuple[str, str, int]]] = defaultdict(set)
    for act in acts:
        backends[act.fence].add((act.room, act.node, act.pid))
    return {fence: found for fence, found in backends.items() if fence == 0 or len(found) > 1}


def find_wrong_leaves(acts: Iterable[Act], complete: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with joins and leaves: each id joins once and leaves once, in `complete` rooms before the end."""
    present: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for act in acts:
        backend = (act.node, act.pid)
        kind, _, who = act.what.partition(" ")
        if kind == "join":
            present[backend][who] += 1
            if present[backend][who] != 1:
                yield f"{act}: joined twice"
        elif kind == "leave":
            present[backend][who] -= 1
            if present[backend][who] != 0:
                yield f"{act}: left without a join"
        elif kind == "end" and act.room in complete and any(present[backend].values()):
            yield f"{act}: {+present[backend]} joined and did not leave"
