"""Who may come in: from a request's path to app and room, and the policies that are decided before the upgrade."""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final
from urllib.parse import unquote, urlsplit

from scalesocket.config.model import App, Site
from scalesocket.config.values import DEFAULT_PORTS
from scalesocket.wire.forwarded import seen_by_proxies
from scalesocket.wire.handshake import Request

RESERVED: Final = frozenset({".", ".."})
"""Never names of rooms."""
RESERVED_AT_ROOT: Final = frozenset(
    {"api", "metrics", "health", "ready", "static", "upload", "admin", "rooms", "apps", "robots.txt", "favicon.ico"}
)
"""Nor these for the app at the root, nor the names of the other apps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An upgrade that is not answered with a websocket."""

    status: int
    reason: str
    """A label for metrics."""
    message: str
    """For the person on the other side."""
    retry_after: int | None = None
    """Seconds."""


UNKNOWN_APP: Final = Refusal(status=404, reason="unknown_app", message="no app is served here")
NO_SUCH_PATH: Final = Refusal(status=404, reason="unknown_app", message="there is nothing here: a room's name has no slash")
NO_ROOM: Final = Refusal(status=400, reason="bad_name", message="the name of a room is missing at the end of the path")
BAD_NAME: Final = Refusal(status=400, reason="bad_name", message="this is not a name a room can have")
RESERVED_NAME: Final = Refusal(status=400, reason="reserved_name", message="this name is reserved")
NOT_LISTED: Final = Refusal(status=404, reason="not_listed", message="there is no such room")
WRONG_ORIGIN: Final = Refusal(status=403, reason="origin", message="pages of this origin may not connect")
TOO_MANY_FROM_ADDRESS: Final = Refusal(
    status=429, reason="too_many_from_address", message="too many connections from this address"
)


def find_room(site: Site, path: str) -> tuple[App, str] | tuple[App | None, Refusal]:
    """Find the app and the decoded name of the room that a request's path means, or why there is none."""
    first, _, rest = path[1:].partition("/")
    app = site.apps.get(first)
    if app is None or app.mount == "/":
        app = root_app(site)
        first, rest = (path[1:], "") if app is None else ("", path[1:])
    if app is None:
        return None, UNKNOWN_APP
    segment = rest.removesuffix("/")
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


def check_name(site: Site, app: App, name: str) -> Refusal | None:
    """Whether a room may have this decoded name."""
    if app.mount == "/" and (name in RESERVED_AT_ROOT or (name in site.apps and name != app.name)):
        return RESERVED_NAME
    if name in RESERVED or not _compiled(app.room_pattern).fullmatch(name):
        return BAD_NAME
    if app.rooms is not None and name not in app.rooms:
        return NOT_LISTED
    return None


def root_app(site: Site) -> App | None:
    """The app served at the root, if there is one."""
    return next((app for app in site.apps.values() if app.mount == "/"), None)


def allows_origin(app: App, request: Request) -> bool:
    """Whether a browser's page of the request's `Origin` may connect; who sends none is not a browser (RFC 6454 7)."""
    origin = request.headers.get("origin")
    if origin is None:
        return True
    if app.origins is not None:
        return "*" in app.origins or origin.lower() in (allowed.lower() for allowed in app.origins)
    host = _host_of(origin)
    return host is not None and host == _host_of(f"{origin.partition(':')[0]}://{request.headers.get('host', '')}")


def seen_through_proxies(request: Request, trusted: tuple[IPv4Network | IPv6Network, ...]) -> Request:
    """The request as the client sent it: a trusted proxy's word for who the client is, and whether it came by TLS."""
    if not trusted or (request.peer is not None and not is_trusted(request.peer[0], trusted)):
        return request
    peer, proto = seen_by_proxies(request.headers, lambda address: is_trusted(address, trusted))
    return request._replace(
        peer=peer or request.peer,
        is_secure=request.is_secure if proto is None else proto in ("https", "wss"),
    )


def is_trusted(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """Whether an address lies in one of the networks."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if parsed.version == 6 and parsed.ipv4_mapped is not None:  # as a listener at [::] sees them
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _host_of(url: str) -> tuple[str, int | None] | None:
    """Host and port of a URL; None for what is none."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)) if parts.hostname else None
    except ValueError:
        return None
