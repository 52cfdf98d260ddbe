"""The host that a request names, and the origin of the page that made it."""

from scalesocket.admission.proxies import is_from_trusted
from scalesocket.admission.refusals import BAD_HOST, WRONG_HOST, Refusal
from scalesocket.config.host_patterns import matches_host
from scalesocket.config.model import App, Server
from scalesocket.wire.address import is_loopback
from scalesocket.wire.authority import Authority, is_same_origin, parse_authority
from scalesocket.wire.forwarded import is_forwarded
from scalesocket.wire.handshake import Request


def check_host(server: Server, request: Request, *, is_upgrade: bool) -> Refusal | None:
    """Return why the server does not answer for the host of a request, or None if it does.

    `request`: as received, before `resolve_client`.

    Without `hosts` this prevents DNS rebinding: a page of evil.example, whose owner points that name to 127.0.0.1, would
    otherwise be of the same origin as the server. Requests through a proxy pass, since the proxy decides which hosts it serves.
    """
    headers = request.headers
    host = headers.get("host")
    authority = None if host is None else parse_authority(host)
    if authority is None and (host is not None or request.http_version != "1.0"):
        return BAD_HOST
    if server.hosts is not None:
        return None if authority is not None and matches_host(server.hosts, authority.host) else WRONG_HOST
    # Browsers send `Accept-Language` with every request; other clients do not. For a URL with http and a name, browsers send no
    # `Sec-Fetch-Site` (Fetch Metadata 2), and with GET no `Origin`.
    is_from_browser = "origin" in headers or "accept-language" in headers or "sec-fetch-site" in headers
    if not is_from_browser or request.local is None or not is_loopback(request.local[0]):
        return None
    if authority is not None and names_loopback(authority.host):
        return None
    return None if came_through_proxy(server, request, authority, is_upgrade=is_upgrade) else WRONG_HOST


def names_loopback(host: str) -> bool:
    """Return whether a host always means the loopback of this machine.

    The unspecified address counts: browsers connect to the loopback for it, and DNS cannot change that.
    """
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host) or host in ("0.0.0.0", "::")


def came_through_proxy(server: Server, request: Request, authority: Authority | None, *, is_upgrade: bool) -> bool:
    """Return whether a proxy forwarded the request.

    A page cannot add headers to an upgrade. It can add them to other requests, all but `Via`, and so imitate a proxy. But it
    cannot name another port than the one it connects to, and requests through a proxy usually do.
    """
    if request.is_proxied:
        return True
    if not is_forwarded(request.headers):
        return False
    if is_upgrade or "via" in request.headers or request.local is None or is_from_trusted(server.trusted_proxies, request):
        return True
    return authority is None or authority.port_or(443 if request.is_secure else 80) != request.local[1]


def allows_origin(app: App, request: Request) -> bool:
    """Return whether pages of the request's `Origin` may connect. Clients that send none are not browsers (RFC 6454 7)."""
    origin = request.headers.get("origin")
    if origin is None:
        return True
    if app.origins is not None:
        return "*" in app.origins or origin.lower() in (allowed.lower() for allowed in app.origins)
    return is_same_origin(origin, request.headers.get("host", ""))
