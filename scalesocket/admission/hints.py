"""Log events about refused clients, each cause once, with a hint for the owner of the site."""

from collections.abc import Hashable
from typing import Final

import structlog

from scalesocket.config.model import App
from scalesocket.wire.authority import parse_authority
from scalesocket.wire.handshake import Request

log = structlog.get_logger("gateway")

MAX_CAUSES: Final = 100
"""Causes that are logged for each kind of event."""
MAX_NAME: Final = 200
"""Characters of an origin in the log."""
SUBPROTOCOL_HINT: Final = "most clients that ask for one fail without an answer: list its name in subprotocols, in a site file"

PROXY_HINT: Final = "the proxy must send version 1 or 2 of the PROXY protocol, and be in trusted_proxies"


class RefusalHints:
    """Logs each cause of a refusal once. Clients choose the causes, so their number is bounded."""

    __slots__ = ("_apps", "_hosts", "_origins", "_proxies")

    def __init__(self) -> None:
        """Start with nothing logged."""
        self._origins: set[Hashable] = set()
        self._hosts: set[Hashable] = set()
        self._apps: set[Hashable] = set()
        self._proxies: set[Hashable] = set()

    def origin_refused(self, app: App, request: Request) -> None:
        """Log an origin that an app does not allow. Browsers do not show a page why it may not connect."""
        origin = request.headers.get("origin", "")[:MAX_NAME]
        if _is_new((app.name, origin), self._origins):
            log.warning("origin refused", app=app.name, origin=origin, hint="list it in origins if its pages may connect")

    def host_refused(self, request: Request) -> None:
        """Log a host by which a browser reached the loopback, and how to allow it."""
        authority = parse_authority(request.headers.get("host", ""))
        host = "" if authority is None else authority.host
        if _is_new(host, self._hosts):
            hint = f'if it is yours, write hosts = ["localhost", "{host or "play.example"}"] in [server]'
            log.warning("host refused", host=host, hint=hint)

    def proxy_header_refused(self, peer: object, error: str) -> None:
        """Log a wrong PROXY header, once for each address and error."""
        address = peer[0] if isinstance(peer, tuple) else "unix socket"
        if _is_new((address, error), self._proxies):
            log.warning("PROXY header refused", peer=address, error=error, hint=PROXY_HINT)

    def no_subprotocol(self, app: App) -> None:
        """Log that a client of an app offered subprotocols and none was chosen. The offer may be a secret and is not logged."""
        if _is_new(app.name, self._apps):
            log.warning("no common subprotocol", app=app.name, hint=SUBPROTOCOL_HINT)


def _is_new(cause: Hashable, logged: set[Hashable]) -> bool:
    if cause in logged or len(logged) >= MAX_CAUSES:
        return False
    logged.add(cause)
    return True
