"""Decides on requests before the upgrade: from path to app and room, hosts, origins, proxies."""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import unquote

from scalesocket.config.host_patterns import matches_host
from scalesocket.config.model import App, Server, Site
from scalesocket.wire.address import is_loopback, parse_address
from scalesocket.wire.authority import Authority, is_same_origin, parse_authority
from scalesocket.wire.forwarded import is_forwarded, seen_by_proxies
from scalesocket.wire.handshake import Request

RESERVED: Final = frozenset({".", ".."})
"""Never names of rooms."""
RESERVED_AT_ROOT: Final = frozenset(
    {"api", "metrics", "health", "ready", "static", "upload", "admin", "rooms", "apps", "robots.txt", "favicon.ico"}
)
"""Nor these for the app at the root, nor the names of the other apps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that is refused, and how."""

    status: int
    reason: str
    """A label for metrics."""
    message: str
    """For a person at the client."""
    retry_after: int | None = None
    """Seconds."""


BAD_HOST: Final = Refusal(status=400, reason="bad_host", message="the Host header is not a host, or a host and a port")
WRONG_HOST: Final = Refusal(
    status=421, reason="host", message="this host is not served here (if it is yours, list it in hosts in [server])"
)
UNKNOWN_APP: Final = Refusal(status=404, reason="unknown_app", message="no app is served at this path")
NO_SUCH_PATH: Final = Refusal(status=404, reason="unknown_app", message="the name of a room must not have a slash")
NO_ROOM: Final = Refusal(status=400, reason="bad_name", message="the name of a room is missing: add it to the end of the path")
PAGES_ALONE: Final = Refusal(status=404, reason="no_rooms", message="this app has no rooms, only pages")
BAD_NAME: Final = Refusal(status=400, reason="bad_name", message="this is not a name a room can have")
RESERVED_NAME: Final = Refusal(status=400, reason="reserved_name", message="this name is reserved: choose another")
NOT_LISTED: Final = Refusal(status=404, reason="not_listed", message="the rooms of this app do not include this one")
WRONG_ORIGIN: Final = Refusal(status=403, reason="origin", message="pages of this origin may not connect (see origins)")
TOO_FAST: Final = Refusal(status=429, reason="connect_rate", message="too many connections a second from this address")
TOO_MANY_FROM_ADDRESS: Final = Refusal(
    status=429, reason="too_many_from_address", message="too many connections from this address"
)


def find_room(site: Site, path: str) -> tuple[App, str] | tuple[App | None, Refusal]:
    """Find the app and the decoded name of the room that a request's path means, or why there is none."""
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
    """Find the app that a path, still percent-encoded, belongs to, and the rest of the path below its mount.

    The rest is empty for the mount itself. An app's own mount wins over the app at the root. Names of apps need no escapes,
    and mean the same with them (RFC 3986 6.2.2.2).
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


def check_host(server: Server, request: Request, *, is_upgrade: bool) -> Refusal | None:
    """Whether the server answers for the host that a request names, as its client sent it.

    Without `hosts` this stops DNS rebinding: a page of evil.example, whose name its owner lets point to 127.0.0.1, would else
    be of the same origin as the server. A request that came through a proxy passes: the proxy decides which names it serves.
    """
    headers = request.headers
    host = headers.get("host")
    authority = None if host is None else parse_authority(host)
    if authority is None and (host is not None or request.http_version != "1.0"):
        return BAD_HOST
    if server.hosts is not None:
        return None if authority is not None and matches_host(server.hosts, authority.host) else WRONG_HOST
    # Browsers put `Accept-Language` into every request, and other clients leave it out. To a URL with http and a name, a browser
    # sends no `Sec-Fetch-Site` (Fetch Metadata 2), and with GET no `Origin`.
    is_from_browser = "origin" in headers or "accept-language" in headers or "sec-fetch-site" in headers
    if not is_from_browser or request.local is None or not is_loopback(request.local[0]):
        return None
    if authority is not None and names_loopback(authority.host):
        return None
    return None if came_through_proxy(server, request, authority, is_upgrade=is_upgrade) else WRONG_HOST


def names_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback by any name: no other name is sure to stay there.

    The unspecified address counts, because browsers take it for the loopback, and DNS cannot change that.
    """
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host) or host in ("0.0.0.0", "::")


def came_through_proxy(server: Server, request: Request, authority: Authority | None, *, is_upgrade: bool) -> bool:
    """Whether a proxy forwarded the request.

    A page cannot add a header to an upgrade, but it can to other requests (only `Via` is forbidden to it), and may so pose as a
    proxy. What it cannot do is to name another port than the one it connects to, as what comes from a proxy mostly does.
    """
    if request.is_proxied:
        return True
    if not is_forwarded(request.headers):
        return False
    if is_upgrade or "via" in request.headers or request.local is None or is_from_trusted(server.trusted_proxies, request):
        return True
    return authority is None or authority.port_or(443 if request.is_secure else 80) != request.local[1]


def allows_origin(app: App, request: Request) -> bool:
    """Whether a browser's page of the request's `Origin` may connect; who sends none is not a browser (RFC 6454 7)."""
    origin = request.headers.get("origin")
    if origin is None:
        return True
    if app.origins is not None:
        return "*" in app.origins or origin.lower() in (allowed.lower() for allowed in app.origins)
    return is_same_origin(origin, request.headers.get("host", ""))


def seen_through_proxies(request: Request, trusted: tuple[IPv4Network | IPv6Network, ...]) -> Request:
    """The request as the client sent it: a trusted proxy's word for who the client is, and whether it came by TLS."""
    if not is_from_trusted(trusted, request):
        return request
    peer, proto = seen_by_proxies(request.headers, lambda address: is_trusted(address, trusted))
    return request._replace(
        peer=peer or request.peer,
        is_secure=request.is_secure if proto is None else proto in ("https", "wss"),
    )


def is_from_trusted(trusted: tuple[IPv4Network | IPv6Network, ...], request: Request) -> bool:
    """Whether the other end of a request's connection is a trusted proxy; where there are any, a unix socket's is."""
    return bool(trusted) and (request.peer is None or is_trusted(request.peer[0], trusted))


def is_trusted(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """Whether an address lies in one of the networks."""
    parsed = parse_address(address)
    return parsed is not None and any(parsed in network for network in networks)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
