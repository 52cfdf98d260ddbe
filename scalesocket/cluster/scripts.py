"""The Lua scripts of the directory, in `lua/`: all of its rules. Each runs in the engine as one step.

Keys, all with the prefix `{NAME}:`, whose braces put them into one slot of a sharded engine:

    engine              the life of the engine, the clock, and the end of the grace period
    fence               the last fence
    nodes               the names of the nodes, those of lost ones for ten minutes
    node:NODE           a session
    rooms:INC           the rooms of a session, as `APP:ROOM`
    ended               sessions that have ended, whose rooms are still to be removed
    room:APP:ROOM       a room
    ticket:HASH         a ticket

**Clock.** Leases are counted in microseconds of a clock of the directory. It follows that of the engine, but advances by a tenth
of a lease at most from one script to the next, and never goes back. So no lease ends too early if that clock is set.
No key but a ticket has a TTL, for the same reason, and because an engine with `maxmemory` may evict keys that have one.

**Epoch.** Each script compares the `run_id` of the engine with the one that it knows. If it differs, or if none is known, then
the engine was restarted, emptied or replaced, and may have lost what it had confirmed. A new epoch begins: sessions and rooms of
older ones are void until their nodes report them, and for one lease, the grace period, no claim succeeds.

**Fences** only rise: each is the engine's time in microseconds, or one more than the last. Every request brings the highest fence
that its node has seen, so that an engine that was emptied, and whose clock was set back, goes on above it.

A script returns a list whose first item is a word, which says what the others are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A script and its hash, by which an engine that has seen it runs it."""

    name: str
    text: str
    digest: str


def load_script(name: str) -> Script:
    """Read a script, and put what all have in common before it."""
    text = "".join((_FOLDER / f"{part}.lua").read_text() for part in ("common", name))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


OPEN: Final = load_script("open")
RENEW: Final = load_script("renew")
REPORT: Final = load_script("report")
CLOSE: Final = load_script("close")
CLAIM: Final = load_script("claim")
FIND: Final = load_script("find")
RELEASE: Final = load_script("release")
PUBLISH: Final = load_script("publish")
NODES: Final = load_script("nodes")
ROOMS: Final = load_script("rooms")
FORGET: Final = load_script("forget")
