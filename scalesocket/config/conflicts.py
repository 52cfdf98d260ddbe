"""Keys of one app that cannot stand together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TARGETS: Final = ("command", "tcp", "unix")
"""What a room can run or connect to: an app has exactly one of these."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What is wrong, and the key to blame; an empty key blames the app as a whole."""

    key: str
    message: str


def find_conflicts(name: str, app: Mapping[str, object]) -> list[Conflict]:
    """All conflicts among the keys an app sets, parsed or as they stand in the file; None counts as not set."""
    present = {key for key, value in app.items() if value is not None}
    found = []
    targets = [key for key in TARGETS if key in present]
    if not targets:
        found.append(Conflict("", f"no target (set one of: {', '.join(TARGETS)})"))
    found += [Conflict(key, f"a second target beside {targets[0]} (keep one of: {', '.join(targets)})") for key in targets[1:]]
    if "port" in present and targets and "command" not in present:
        found.append(Conflict("port", f"goes with command, not with {targets[0]} (put the port into {targets[0]}, or remove it)"))
    if app.get("binary") is True and "delimiter" in present:
        found.append(Conflict("delimiter", "does not go with binary = true, which takes output as it comes (remove one of them)"))
    if "mount" in present and app["mount"] not in ("/", f"/{name}"):
        found.append(Conflict("mount", f'unknown value {app["mount"]!r} (write "/" for the root, or leave it out for "/{name}")'))
    return found
