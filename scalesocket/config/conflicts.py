"""Keys of one app that exclude each other."""

from collections.abc import Iterator, Mapping
from typing import Final

from scalesocket.config.problems import Finding

TARGETS: Final = ("command", "tcp", "unix")
"""The keys that say what a room runs or connects to. An app with rooms has exactly one of them."""

DISPLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "command": ("tcp", "unix"),
    "tcp": ("command", "unix", "port"),
    "unix": ("command", "tcp", "port"),
    "binary": ("delimiter",),
    "delimiter": ("binary",),
}
"""For each key of an app, the keys that it then does not inherit from `[defaults]`."""


def find_conflicts(name: str, app: Mapping[str, object]) -> Iterator[Finding]:
    """Find all conflicts among the keys of an app, parsed or as they are in the file. A key that is None is not set."""
    present = {key for key, value in app.items() if value is not None}
    targets = [key for key in app if key in TARGETS and key in present]
    if not targets and "static" not in present:
        message = f"has no target (set one of: {', '.join(TARGETS)}; or only static, for an app without rooms)"
        yield Finding((), message, is_about_key=True)
    for key in targets[1:]:
        yield Finding((key,), f"is a second target besides {targets[0]} (keep one of the two)", is_about_key=True)
    if "port" in present and targets and "command" not in present:
        message = f"is for command, not for {targets[0]}, whose address includes the port (delete it)"
        yield Finding(("port",), message, is_about_key=True)
    if app.get("binary") is True and "delimiter" in present:
        message = "cannot be combined with binary = true, which does not split output (keep one of the two)"
        yield Finding(("delimiter",), message, is_about_key=True)
    if isinstance(app.get("mount"), str) and app["mount"] not in ("/", f"/{name}"):
        yield Finding(("mount",), f'unknown value {str(app["mount"])!r} (write "/", or delete it for "/{name}")')
