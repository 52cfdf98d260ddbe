"""Decides which requests the admin surface answers: by their token, and not those that a page of another site makes."""

import asyncio
import hmac
import re
import time
from dataclasses import replace
from hashlib import sha256
from typing import Final

import structlog

from scalesocket.admission.hosts import check_host
from scalesocket.admission.proxies import resolve_client
from scalesocket.admission.refusals import Refusal
from scalesocket.config.model import Admin
from scalesocket.server.admin.failures import WrongTokens
from scalesocket.status import HasSite
from scalesocket.wire.authority import is_same_origin
from scalesocket.wire.handshake import Request

log = structlog.get_logger("admin")

MAX_DELAYED: Final = 16
"""Answers that are delayed at a time; others get 429 at once."""
_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)  # RFC 6750 2.1, RFC 9110 11.1

NO_TOKEN: Final = Refusal(
    status=401, reason="admin_no_token", message="send the token of server.admin: Authorization: Bearer TOKEN"
)
WRONG_TOKEN: Final = Refusal(status=401, reason="admin_wrong_token", message="this is not the token of server.admin")
TOO_MANY_FAILURES: Final = Refusal(
    status=429, reason="admin_too_many_failures", message="too many wrong tokens from this address: wait"
)
OTHER_SITE: Final = Refusal(status=403, reason="admin_origin", message="pages of other sites may not use the admin surface")
NOT_OPEN: Final = Refusal(status=403, reason="admin_closed", message="the admin surface was closed by an edit of the site file")


class Guard:
    """The checks of the admin surface."""

    def __init__(self, running: HasSite) -> None:
        """Guard the admin surface of a running site, whose `server.admin` is read at each request."""
        self._running = running
        self._wrong_tokens = WrongTokens()
        self._delayed = 0

    async def admit(self, request: Request) -> str | Refusal:
        """Decide on a request; return the address of its caller if it is answered. After a wrong token this may take seconds."""
        server = self._running.site.server
        if server.admin is None:  # over a connection from before the edit
            return NOT_OPEN
        # `hosts` lists the names of the public site. Here the rule that it replaces holds, against DNS rebinding.
        refusal = check_host(server.model_copy(update={"hosts": None}), request, is_upgrade=False)
        if refusal is not None:
            return refusal
        if is_from_other_site(request):
            return OTHER_SITE
        caller = resolve_client(request, server.trusted_proxies)
        if server.admin.token is None:
            return _name(caller) if request.peer is None else NO_TOKEN
        return await self._check_token(server.admin, caller)

    async def _check_token(self, admin: Admin, request: Request) -> str | Refusal:
        given = request.headers.get("authorization")
        if given is not None and _is_token(given, admin):  # first: wrong tokens of others at this address do not lock it out
            return _name(request)
        now = time.monotonic()
        if wait := self._wrong_tokens.wait(request.peer, now):
            return replace(TOO_MANY_FAILURES, retry_after=wait)
        if given is None:
            return NO_TOKEN
        delay = self._wrong_tokens.add(request.peer, now)
        log.warning("wrong admin token", address=_name(request))
        if delay and self._delayed >= MAX_DELAYED:
            return replace(TOO_MANY_FAILURES, retry_after=1)
        if delay:
            self._delayed += 1
            try:
                await asyncio.sleep(delay)
            finally:
                self._delayed -= 1
        return WRONG_TOKEN


def is_from_other_site(request: Request) -> bool:
    """Return whether a browser makes the request for a page of another origin (Fetch Metadata, RFC 6454 7)."""
    headers = request.headers
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("origin")
    return origin is not None and not is_same_origin(origin, headers.get("host", ""))


def _is_token(given: str, admin: Admin) -> bool:
    """Compare in a time that depends on neither token: both are hashed first."""
    assert admin.token is not None
    match = _BEARER.fullmatch(given)
    token = "" if match is None else match[1]
    is_equal = hmac.compare_digest(sha256(token.encode()).digest(), sha256(admin.token.encode()).digest())
    return is_equal and match is not None


def _name(request: Request) -> str:
    return "unix socket" if request.peer is None else f"{request.peer[0]}:{request.peer[1]}"
