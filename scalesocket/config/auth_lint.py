"""Settings of `auth` that are valid but probably mistakes, or expose credentials."""

from collections.abc import Iterator
from typing import Final

from scalesocket.config.addresses import UNIX_PEERS
from scalesocket.config.model import App, Server, Site
from scalesocket.config.problems import Finding, Severity

DIGESTS: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes of the digest of each algorithm, which a secret must have at least (RFC 7518 3.2)."""


def find_suspicious_auth(app: App) -> Iterator[Finding]:
    """Find probable mistakes in the `auth` table of a valid app."""
    auth = app.auth
    if auth is None:
        return
    for place in auth.places:
        if place.startswith("query:"):
            yield Finding(("auth", "from"), f"{place!r} puts tokens into URLs, which end up in logs (use a ticket or a header)")
    if auth.jwt is not None and auth.jwt.secret is not None:
        needed = max(DIGESTS.get(name, 0) for name in auth.jwt.algorithms or ("HS256",))
        if len(auth.jwt.secret.encode()) < needed:
            message = f"has fewer than {needed} bytes and can be guessed (write a random one: openssl rand -hex {needed})"
            yield Finding(("auth", "jwt", "secret"), message)


def find_exposed_auth(site: Site) -> Iterator[tuple[str, Finding]]:
    """Find ways to authenticate that do not fit the `[server]` table: the app, and the warning."""
    for name, app in site.apps.items():
        if app.auth is None:
            continue
        if app.auth.users_file is not None and not _has_tls(site.server):
            message = "passwords are sent unencrypted (set tls in [server], or trusted_proxies for a proxy with TLS)"
            yield name, Finding(("auth", "users_file"), message, Severity.WARNING)
        if app.auth.header is not None and not _has_proxy(site.server):
            message = "is trusted from nobody (list the proxy in trusted_proxies of [server])"
            if site.server.is_on_unix_sockets:
                message = f'is trusted from nobody (write "{UNIX_PEERS}" in trusted_proxies of [server])'
            yield name, Finding(("auth", "header"), message, Severity.WARNING)


def _has_tls(server: Server) -> bool:
    return server.tls is not None or _has_proxy(server)


def _has_proxy(server: Server) -> bool:
    """Whether one of `trusted_proxies` can be a peer of the listeners."""
    return UNIX_PEERS in server.trusted_proxies if server.is_on_unix_sockets else bool(server.trusted_proxies)
