"""Keys of one app that exclude each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TARGETS: Final = ("command", "tcp", "unix")
"""What a room can run or connect to: an app has one of these, or is pages alone."""

DISPLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "command": ("tcp", "unix"),
    "tcp": ("command", "unix", "port"),
    "unix": ("command", "tcp", "port"),
    "binary": ("delimiter",),
    "delimiter": ("binary",),
}
"""The keys that are not inherited from `[defaults]` by an app that sets this one itself."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What is wrong, and the key to blame; an empty key blames the app as a whole."""

    key: str
    message: str
    is_about_key: bool = False
    """The key should not be there at all, whatever its value."""


def find_conflicts(name: str, app: Mapping[str, object]) -> list[Conflict]:
    """All conflicts among the keys an app sets, parsed or as they stand in the file; None counts as not set."""
    present = {key for key, value in app.items() if value is not None}
    targets = [key for key in app if key in TARGETS and key in present]
    found = []
    if not targets and "static" not in present:
        message = f"has no target (set one of: {', '.join(TARGETS)}; or static alone, for an app that is pages without rooms)"
        found.append(Conflict("", message, is_about_key=True))
    for key in targets[1:]:
        found.append(Conflict(key, f"a second target beside {targets[0]} (keep one of them)", is_about_key=True))
    if "port" in present and targets and "command" not in present:
        message = f"goes with command, not with {targets[0]} (the port of a target is part of its address)"
        found.append(Conflict("port", message, is_about_key=True))
    if app.get("binary") is True and "delimiter" in present:
        found.append(Conflict("delimiter", "does not go with binary = true, which takes output as it comes", is_about_key=True))
    if isinstance(app.get("mount"), str) and app["mount"] not in ("/", f"/{name}"):
        found.append(Conflict("mount", f'unknown value {str(app["mount"])!r} (write "/", or leave it out for "/{name}")'))
    return found
