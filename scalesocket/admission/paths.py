"""From the path of a request to an app and a room."""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from scalesocket.admission.refusals import (
    BAD_NAME,
    NO_ROOM,
    NO_SUCH_PATH,
    NOT_LISTED,
    PAGES_ALONE,
    RESERVED_NAME,
    UNKNOWN_APP,
    Refusal,
)
from scalesocket.config.model import App, Site

RESERVED: Final = frozenset({".", ".."})
"""Names that no room may have."""
RESERVED_AT_ROOT: Final = frozenset(
    {"api", "metrics", "health", "ready", "static", "upload", "admin", "rooms", "apps", "robots.txt", "favicon.ico"}
)
"""Names that no room of the app at the root may have, besides the names of the other apps."""


def find_room(site: Site, path: str) -> tuple[App, str] | tuple[App | None, Refusal]:
    """Return the app and the decoded room name that a path means, or why there is none."""
    app, rest = find_app(site, path)
    if app is None:
        return None, UNKNOWN_APP
    if not app.has_rooms:
        return app, PAGES_ALONE
    segment = rest[1:-1] if rest[-1:] == "/" else rest[1:]
    if not segment:
        return app, NO_ROOM
    if "/" in segment:
        return app, NO_SUCH_PATH
    if "%" in segment:
        try:
            segment = unquote(segment, errors="strict")
        except UnicodeDecodeError:
            return app, BAD_NAME
    refusal = check_name(site, app, segment)
    return (app, segment) if refusal is None else (app, refusal)


def find_app(site: Site, path: str) -> tuple[App | None, str]:
    """Return the app that a percent-encoded path belongs to, and the rest of the path below the app's mount.

    The rest is empty for the mount itself. An app's own mount wins over the app at the root. An app's name needs no
    percent-encoding, and means the same with it (RFC 3986 6.2.2.2).
    """
    end = path.find("/", 1)
    if end < 0:
        end = len(path)
    name = path[1:end]
    app = site.apps.get(unquote(name) if "%" in name else name)
    if app is not None and app.mount != "/":
        return app, path[end:]
    return root_app(site), path


def check_name(site: Site, app: App, name: str) -> Refusal | None:
    """Return why a room may not have this decoded name, or None if it may."""
    if app.mount == "/" and (name in RESERVED_AT_ROOT or (name in site.apps and name != app.name)):
        return RESERVED_NAME
    if name in RESERVED or not _compiled(app.room_pattern).fullmatch(name):
        return BAD_NAME
    if app.rooms is not None and name not in app.rooms:
        return NOT_LISTED
    return None


def root_app(site: Site) -> App | None:
    """Return the app that is mounted at the root, if there is one."""
    return next((app for app in site.apps.values() if app.mount == "/"), None)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
