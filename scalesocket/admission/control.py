"""Admission control: decides on each upgrade, and on each admitted client that joins its room."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import anyio
import structlog

from scalesocket.admission.address_limits import AddressLimits
from scalesocket.admission.hints import RefusalHints
from scalesocket.admission.hosts import allows_origin, check_host
from scalesocket.admission.paths import find_room
from scalesocket.admission.proxies import resolve_client
from scalesocket.admission.refusals import (
    DRAINING,
    TOO_FAST,
    TOO_MANY_FROM_ADDRESS,
    WRONG_HOST,
    WRONG_ORIGIN,
    Refusal,
)
from scalesocket.config.model import App, Site
from scalesocket.edge.client import Client
from scalesocket.errors import ADDRESS_FULL, APP_REMOVED, INTERNAL_ERROR, SERVER_FULL, SHUTTING_DOWN, Close
from scalesocket.rooms.pool import RoomPool
from scalesocket.wire.batch import ClientId
from scalesocket.wire.handshake import HandshakeError, Request, choose_subprotocol, offered_subprotocols

log = structlog.get_logger("gateway")

SWEEP_INTERVAL: Final = 1.0
"""Seconds between two sweeps of the addresses that no rate limits any more."""


class Admission(NamedTuple):
    """An admitted upgrade. After its handshake, `join` adds the client to its room."""

    app: App
    room: str
    request: Request
    """With the client's address and scheme, where trusted proxies report them."""
    control: "AdmissionControl"
    subprotocol: str | None = None
    """The value of `Sec-WebSocket-Protocol` in the response, if any."""

    def join(self, client: Client) -> Close | None:
        """Give the client its id and add it to its room, which replays its history to the client.

        Returns how to close the websocket if a limit is reached. Browsers do not show the status of a failed handshake, so the
        handshake is completed first.
        """
        return self.control.join(self, client)


class AdmissionControl:
    """Decides which clients may connect, and counts them and the refused ones. The gateway has one."""

    def __init__(self, site: Site, pools: Mapping[str, RoomPool]) -> None:
        """Admit clients to `pools`, the rooms of each app by its name."""
        self.site = site
        """The site in force. The gateway replaces it."""
        self.is_closed = False
        """Whether the server drains and admits no more clients."""
        self.connections = 0
        """Websockets that are in a room."""
        self.refusals: Counter[str] = Counter()
        """Requests that were refused before an app was found, by reason."""
        self._pools = pools
        self._addresses = AddressLimits()
        self._hints = RefusalHints()
        self._ids = itertools.count(1)

    def admit(self, request: Request) -> Admission | Refusal:
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
        if not allows_origin(app, resolved):
            self._hints.origin_refused(app, resolved)
            return self._refuse(app, WRONG_ORIGIN)
        if server.max_connections_per_ip is not None and self._addresses.is_full(resolved.peer, server.max_connections_per_ip):
            return self._refuse(app, TOO_MANY_FROM_ADDRESS)
        offer = request.headers.get("sec-websocket-protocol")
        if offer is None:
            return Admission(app, room, resolved, self)
        try:
            subprotocol = choose_subprotocol(offered_subprotocols(offer), app.subprotocols)
        except HandshakeError as error:
            return self._refuse(app, Refusal(status=error.status, reason="bad_handshake", message=error.message))
        if subprotocol is None:
            self._hints.no_subprotocol(app)
        return Admission(app, room, resolved, self, subprotocol)

    def check_page(self, request: Request) -> Refusal | None:
        """Decide on a request that is no upgrade, by the host it names. `request`: as received, before `resolve_client`."""
        refusal = self._check_host(request, is_upgrade=False)
        return None if refusal is None else self.count(refusal)

    def count(self, refusal: Refusal) -> Refusal:
        """Count a request that was refused before an app was found for it."""
        return self._refuse(None, refusal)

    def join(self, admission: Admission, client: Client) -> Close | None:
        """Add an admitted client to its room; see `Admission.join`."""
        limit = self.site.server.max_connections
        if limit is not None and self.connections >= limit:
            self.refusals["server_full"] += 1
            return SERVER_FULL
        pool = self._pools.get(admission.app.name)
        # On the general lane, an edit since the admission may have removed the app or its target.
        if pool is None or not pool.app.has_rooms or self.is_closed:
            return SHUTTING_DOWN if self.is_closed else APP_REMOVED
        limit = self.site.server.max_connections_per_ip
        # Likewise, many clients may have been admitted before the first of them joins.
        if limit is not None and self._addresses.is_full(client.peer, limit):
            pool.refusals[TOO_MANY_FROM_ADDRESS.reason] += 1
            return ADDRESS_FULL
        client.id = ClientId(next(self._ids))
        try:
            return pool.join(client, admission.room, admission.request)
        except Exception:
            log.exception("joining failed", app=admission.app.name, room=admission.room, client=client.id)
            pool.refusals["internal_error"] += 1
            return INTERNAL_ERROR

    def client_joined(self, client: Client) -> None:
        """Count a client that is in a room. Called by the pools."""
        self.connections += 1
        self._addresses.add(client.peer)

    def client_left(self, client: Client) -> None:
        """Uncount a client that left its room. Called by the pools."""
        self.connections -= 1
        self._addresses.remove(client.peer)

    async def sweep(self) -> None:
        """Forget addresses that `connect_rate` and `room_rate` no longer limit, until cancelled. Started by `open_gateway`."""
        while True:
            await anyio.sleep(SWEEP_INTERVAL)
            self._addresses.sweep(self.site.server.connect_rate, time.monotonic())
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
            self._hints.host_refused(request)
        return refusal

    def _refuse(self, app: App | None, refusal: Refusal) -> Refusal:
        pool = None if app is None else self._pools.get(app.name)
        (self.refusals if pool is None else pool.refusals)[refusal.reason] += 1
        log.debug("upgrade refused", app=None if app is None else app.name, reason=refusal.reason, status=refusal.status)
        return refusal
