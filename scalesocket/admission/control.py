"""Admission control: decides on each upgrade, and on each admitted client that joins its room."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import anyio
import structlog

from scalesocket.admission.hints import RefusalHints
from scalesocket.admission.hosts import allows_origin, check_host
from scalesocket.admission.occupancy import Occupancy
from scalesocket.admission.paths import check_name, find_room
from scalesocket.admission.proxies import may_name_user, resolve_client
from scalesocket.admission.rechecks import Rechecks
from scalesocket.admission.refusals import (
    APP_DRAINED,
    DRAINING,
    TOO_FAST,
    TOO_MANY_FROM_ADDRESS,
    WRONG_HOST,
    WRONG_ORIGIN,
    Refusal,
    refuse_denied,
)
from scalesocket.auth.authenticator import Check
from scalesocket.auth.authenticators import Authenticators
from scalesocket.auth.credentials import BEARER
from scalesocket.auth.denial import NOT_AVAILABLE, Denial
from scalesocket.auth.identity import Identity
from scalesocket.auth.sources import Contents
from scalesocket.auth.turns import Turns
from scalesocket.capacity.capacity import Capacity
from scalesocket.capacity.local import LocalCapacity
from scalesocket.config.model import App, Site
from scalesocket.edge.client import Client
from scalesocket.errors import APP_CLOSED, APP_REMOVED, INTERNAL_ERROR, SHUTTING_DOWN, Close
from scalesocket.rooms.pool import RoomPool
from scalesocket.wire.batch import ClientId
from scalesocket.wire.handshake import HandshakeError, Request, choose_subprotocol, offered_subprotocols

log = structlog.get_logger("gateway")

SWEEP_INTERVAL: Final = 1.0
"""Seconds between two sweeps of the addresses that no rate limits now."""
PENDING_TIMEOUT: Final = 30.0
"""Seconds for one verification. Each way has shorter deadlines, and a bound of how many wait."""


class Admission(NamedTuple):
    """An admitted upgrade. After its handshake, `join` adds the client to its room."""

    app: App
    room: str
    request: Request
    """With the client's address and scheme, where trusted proxies report them."""
    control: "AdmissionControl"
    subprotocol: str | None = None
    """The value of `Sec-WebSocket-Protocol` in the response, if any."""
    identity: Identity | None = None
    """Who the client is; None in an app without `auth`."""
    close: Close | None = None
    """How the websocket is closed after its handshake instead of joining, if it was refused in this way."""

    def join(self, client: Client) -> Close | None:
        """Give the client its id and add it to its room, which replays its history to the client.

        Returns how to close the websocket if a limit is reached. Browsers do not show the status of a failed handshake, so the
        handshake is completed first.
        """
        return self.close or self.control.join(self, client)


class PendingAdmission:
    """An upgrade that waits for the verification of its credential, within a deadline."""

    def __init__(self, decision: Awaitable[Admission | Refusal]) -> None:
        self._decision = decision

    async def wait(self) -> Admission | Refusal:
        """Wait for the decision. It must be called once; a caller whose peer has left cancels it."""
        return await self._decision


class AdmissionControl:
    """Decides which clients may connect, and counts them and the refused ones. The gateway has one."""

    def __init__(
        self, site: Site, pools: Mapping[str, RoomPool], capacity: Capacity | None = None, auth_files: Contents | None = None
    ) -> None:
        """Admit clients to `pools`, the rooms of each app by its name.

        `capacity`: what is counted against the limits of the site, if that is shared with other processes.
        `auth_files`: the contents of the files of `auth`, if another process reads them.
        """
        capacity = LocalCapacity() if capacity is None else capacity
        self.site = site
        """The site in force."""
        self.is_closed = False
        """Whether the server drains and admits no more clients."""
        self.farewell = SHUTTING_DOWN
        """How clients are closed when the server stops."""
        self.refusals: Counter[str] = Counter()
        """Requests that were refused before an app was found, by reason."""
        self._pools = pools
        self.hints = RefusalHints()
        self.authenticators = Authenticators(
            site,
            make_turns=lambda app: Turns(capacity.failed(app), capacity.deciding(app)),
            workers=capacity.workers,
            contents=auth_files,
        )
        self.rechecks = Rechecks(self.authenticators.resources.find_hook)
        self.occupancy = Occupancy(site.server, capacity, self.rechecks, self.refusals)
        self._addresses = capacity.addresses
        self._ids = capacity.client_ids

    def apply(self, site: Site) -> None:
        """Take on an edited site, in a step that cannot fail."""
        self.site = site
        self.occupancy.server = site.server
        self.authenticators.apply(site)

    def admit(self, request: Request) -> Admission | Refusal | PendingAdmission:
        """Decide on an upgrade before it is answered."""
        server = self.site.server
        resolved = resolve_client(request, server.trusted_proxies) if server.trusted_proxies else request
        refusal = self._check_server(request, resolved)
        if refusal is not None:
            return self.count(refusal)
        app, room = find_room(self.site, request.path)
        if isinstance(room, Refusal):
            return self._refuse(app, room)
        assert app is not None
        if self._pools[app.name].is_drained:
            return self._refuse(app, APP_DRAINED)
        if not allows_origin(app, resolved):
            self.hints.origin_refused(app, resolved)
            return self._refuse(app, WRONG_ORIGIN)
        if server.max_connections_per_ip is not None and self._addresses.is_full(resolved.peer, server.max_connections_per_ip):
            return self._refuse(app, TOO_MANY_FROM_ADDRESS)
        if app.auth is not None:
            return self._authenticate(app, room, request, resolved)
        return self._agree(Admission(app, room, resolved, self))

    async def issue_ticket(self, request: Request, app: App, room: str) -> str | Refusal:
        """Make a ticket for a room of an app with `auth`, by the rules for upgrades. `request`: as received."""
        server = self.site.server
        resolved = resolve_client(request, server.trusted_proxies)
        refusal = self._check_server(request, resolved)
        if refusal is not None:
            return self.count(refusal)
        refusal = check_name(self.site, app, room) or (None if allows_origin(app, resolved) else WRONG_ORIGIN)
        if refusal is not None:
            return self._refuse(app, refusal)
        is_from_proxy = may_name_user(server.trusted_proxies, request)
        check = self.authenticators[app.name].check(resolved, room, is_from_proxy=is_from_proxy, is_for_ticket=True)
        verdict = check.verdict
        if not isinstance(verdict, Identity | Denial):
            verdict = await self._wait_verdict(app, room, verdict)
        if isinstance(verdict, Denial):
            return self._refuse(app, refuse_denied(verdict, app))
        address = None if resolved.peer is None else resolved.peer[0]
        ticket = self.authenticators.resources.tickets.issue(verdict, app=app.name, room=room, address=address)
        if not isinstance(ticket, str | None):
            ticket = await ticket
        return ticket or self._refuse(app, refuse_denied(NOT_AVAILABLE, app))

    def check_page(self, request: Request) -> Refusal | None:
        """Decide on a request that is no upgrade, by the host it names. `request`: as received, before `resolve_client`."""
        refusal = self._check_host(request, is_upgrade=False)
        return None if refusal is None else self.count(refusal)

    def count(self, refusal: Refusal, app: App | None = None) -> Refusal:
        """Count a request that was refused. `app`: None if it was refused before an app was found for it."""
        return self._refuse(app, refusal)

    def join(self, admission: Admission, client: Client) -> Close | None:
        """Add an admitted client to its room; see `Admission.join`."""
        occupancy, limit = self.occupancy, self.site.server.max_connections
        if limit is not None and occupancy.places.taken >= limit:
            return occupancy.refuse()
        pool = self._pools.get(admission.app.name)
        # On the general lane, an edit since the admission may have removed the app or its target.
        if pool is None or not pool.app.has_rooms or self.is_closed:
            return self.farewell if self.is_closed else APP_REMOVED
        if pool.is_drained:
            pool.refusals[APP_DRAINED.reason] += 1
            return APP_CLOSED
        limit = self.site.server.max_connections_per_ip
        # Likewise, many clients may have been admitted before the first of them joins.
        if limit is not None and self._addresses.is_full(client.peer, limit):
            return occupancy.refuse_address(pool)
        client.id = ClientId(next(self._ids))
        client.identity = admission.identity
        try:
            return pool.join(client, admission.room, admission.request)
        except Exception:
            log.exception("joining failed", app=admission.app.name, room=admission.room, client=client.id)
            pool.refusals["internal_error"] += 1
            return INTERNAL_ERROR

    async def sweep(self) -> None:
        """Forget addresses that `connect_rate` and `room_rate` no longer limit, until cancelled. Started by `open_gateway`."""
        while True:
            await anyio.sleep(SWEEP_INTERVAL)
            server = self.site.server
            self._addresses.sweep(server.max_connections_per_ip, server.connect_rate, time.monotonic())
            for pool in self._pools.values():
                pool.sweep_addresses()

    def _check_server(self, request: Request, resolved: Request) -> Refusal | None:
        """Return why no upgrade with this address or host is admitted, for any app."""
        if self.is_closed:
            return DRAINING
        rate = self.site.server.connect_rate
        if rate is not None:
            wait = self._addresses.take_token(resolved.peer, rate, time.monotonic())
            if wait:
                return replace(TOO_FAST, retry_after=math.ceil(wait))
        return self._check_host(request, is_upgrade=True)

    def _check_host(self, request: Request, *, is_upgrade: bool) -> Refusal | None:
        refusal = check_host(self.site.server, request, is_upgrade=is_upgrade)
        if refusal is WRONG_HOST and self.site.server.hosts is None:
            self.hints.host_refused(request)
        return refusal

    def _agree(self, admission: Admission, *, has_bearer: bool = False) -> Admission | Refusal:
        """Choose the subprotocol. `has_bearer`: the client offered `bearer`, which a browser expects to be answered."""
        offer = admission.request.headers.get("sec-websocket-protocol")
        subprotocol = None
        if offer is not None:
            app = admission.app
            try:
                subprotocol = choose_subprotocol(offered_subprotocols(offer), app.subprotocols)
            except HandshakeError as error:
                return self._refuse(app, Refusal(status=error.status, reason="bad_handshake", message=error.message))
            if subprotocol is None and not has_bearer:
                self.hints.no_subprotocol(app)
        if subprotocol is None and has_bearer:
            subprotocol = BEARER
        return admission if subprotocol is None else admission._replace(subprotocol=subprotocol)

    def _authenticate(self, app: App, room: str, request: Request, resolved: Request) -> Admission | Refusal | PendingAdmission:
        """Decide by the credential of a client. `request`: as received, before `resolve_client`."""
        trusted = self.site.server.trusted_proxies
        is_from_proxy = bool(trusted) and may_name_user(trusted, request)
        check = self.authenticators[app.name].check(resolved, room, is_from_proxy=is_from_proxy)
        verdict = check.verdict
        if isinstance(verdict, Identity):
            return self._agree(Admission(app, room, check.request, self, None, verdict), has_bearer=check.has_bearer)
        admission = Admission(app, room, check.request, self)
        if isinstance(verdict, Denial):
            return self._settle(admission, verdict, check)
        return PendingAdmission(self._settle_later(admission, verdict, check))

    async def _settle_later(
        self, admission: Admission, verdict: Awaitable[Identity | Denial], check: Check
    ) -> Admission | Refusal:
        outcome = await self._wait_verdict(admission.app, admission.room, verdict)
        if self.is_closed:
            return self.count(DRAINING)
        return self._settle(admission, outcome, check)

    async def _wait_verdict(self, app: App, room: str, verdict: Awaitable[Identity | Denial]) -> Identity | Denial:
        """Wait within a deadline; an exception is a bug, and refuses the client."""
        try:
            async with asyncio.timeout(PENDING_TIMEOUT):
                return await verdict
        except TimeoutError:
            return NOT_AVAILABLE
        except Exception:
            log.exception("authentication failed", app=app.name, room=room)
            return NOT_AVAILABLE

    def _settle(self, admission: Admission, verdict: Identity | Denial, check: Check) -> Admission | Refusal:
        """Admit a client that was let in; refuse another, or admit it in order to close it with a code that its page can read."""
        app = admission.app
        agreed = self._agree(admission, has_bearer=check.has_bearer)
        if isinstance(agreed, Refusal):
            return agreed
        if isinstance(verdict, Identity):
            return Admission(app, agreed.room, agreed.request, self, agreed.subprotocol, verdict)
        assert app.auth is not None
        refusal = self._refuse(app, refuse_denied(verdict, app))
        is_closed = app.auth.reject == "close" or (app.auth.reject == "auto" and check.is_from_page)
        return agreed._replace(close=verdict.close) if is_closed else refusal

    def _refuse(self, app: App | None, refusal: Refusal) -> Refusal:
        pool = None if app is None else self._pools.get(app.name)
        (self.refusals if pool is None else pool.refusals)[refusal.reason] += 1
        log.debug("upgrade refused", app=None if app is None else app.name, reason=refusal.reason, status=refusal.status)
        return refusal
