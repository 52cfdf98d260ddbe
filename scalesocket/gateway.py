"""The running site: names to pools, and who may come in.

Owns the tasks of all rooms, and the sweep that looks at their deadlines.
"""

import asyncio
import itertools
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import anyio
import structlog
from anyio.abc import TaskGroup

from scalesocket import __version__
from scalesocket.admission import (
    TOO_FAST,
    TOO_MANY_FROM_ADDRESS,
    WRONG_HOST,
    WRONG_ORIGIN,
    Refusal,
    allows_origin,
    check_host,
    find_room,
    seen_through_proxies,
)
from scalesocket.arrivals import Arrivals
from scalesocket.backends.backend import Backend, Receiver
from scalesocket.backends.open import open_backend
from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import App, Site
from scalesocket.config.plan import Plan, make_plan
from scalesocket.edge.client import Client
from scalesocket.errors import ADDRESS_FULL, APP_REMOVED, INTERNAL_ERROR, ROOM_RESTARTED, SERVER_FULL, SHUTTING_DOWN, Close
from scalesocket.io.poller import Poller
from scalesocket.rooms.containment import contain_exceptions
from scalesocket.rooms.iteration_limit import IterationLimit
from scalesocket.rooms.lifecycle import OpenBackend
from scalesocket.rooms.pool import RoomPool
from scalesocket.rooms.room import Room
from scalesocket.rooms.sweep import Sweep
from scalesocket.status import ReloadState, SiteStatus
from scalesocket.wire.authority import parse_authority
from scalesocket.wire.batch import ClientId
from scalesocket.wire.cgi import base_environment, environment
from scalesocket.wire.handshake import HandshakeError, Request, choose_subprotocol, offered_subprotocols

log = structlog.get_logger("gateway")

SOFTWARE: Final = f"scalesocket/{__version__}"
RETRY_AFTER: Final = 5
"""Seconds a client is asked to wait before it tries again while the server drains."""
CLOSES: Final = 1000
"""Websockets closed a second when an app or the server goes; more only where `drain_timeout` demands it."""
SLICE: Final = 0.02
"""Seconds between two slices of spread closes."""

MAX_TOLD: Final = 100
"""Refused origins that are logged; refused hosts as well, and apps that agreed on no subprotocol."""
SUBPROTOCOL_HINT: Final = "most clients that ask for one fail without an answer: list its name in subprotocols, in a site file"
MAX_NAME: Final = 200
"""Characters of one in the log."""
STOPS_PER_ITERATION: Final = 16
"""Backends that begin to stop in one event-loop iteration, at 0.1 ms each; many rooms may end at the same time."""
FORGET_INTERVAL: Final = 1.0
"""Seconds after which addresses that no longer matter for `connect_rate` are forgotten."""

DRAINING: Final = Refusal(status=503, reason="draining", message="the server is shutting down", retry_after=RETRY_AFTER)


class Admission(NamedTuple):
    """An upgrade that may go through. Once it has, `join` finds the client its room."""

    app: App
    room: str
    request: Request
    """As the client sent it: seen through trusted proxies."""
    gateway: "Gateway"
    subprotocol: str | None = None
    """What the answer names in `Sec-WebSocket-Protocol`, if anything."""

    def join(self, client: Client) -> Close | None:
        """Give the client its id and its room, and replay the room's history to it.

        Returns how to close the websocket where there is no place: a browser can't read the status of a failed
        handshake, so it is accepted first.
        """
        return self.gateway.join(self, client)


class Gateway:
    """The running site. `async with open_gateway(…)` makes one."""

    def __init__(self, site: Site, *, open_backend: OpenBackend, tasks: TaskGroup) -> None:
        """Serve `site`; every backend is opened by `open_backend`, every room's task is started in `tasks`."""
        self.site = site
        self.reload_state = ReloadState(applied_at=time.time())
        self.is_draining = False
        self.connections = 0
        """Admitted websockets that are in a room."""
        self.refusals: Counter[str] = Counter()
        """Turned away before an app was found, by reason; the lanes count here too."""
        self.room_ended = anyio.Event()
        """Set when the first room has ended."""
        self._open_backend = open_backend
        self._tasks = tasks
        self._lives: set[asyncio.Task[None]] = set()
        self._stop_limit = IterationLimit(STOPS_PER_ITERATION)
        self._told_origins: set[tuple[str, str]] = set()
        self._told_hosts: set[str] = set()
        self._told_subprotocols: set[str] = set()
        self._ids = itertools.count(1)
        self._arrivals = Arrivals()
        self._leaving: dict[str, RoomPool] = {}  # removed apps whose rooms have not all ended
        self._pools = {name: self._make_pool(app) for name, app in site.apps.items()}

    @property
    def pools(self) -> Mapping[str, RoomPool]:
        """The apps by name."""
        return self._pools

    def admit(self, request: Request) -> Admission | Refusal:
        """Decide on an upgrade before it is answered."""
        if self.is_draining:
            return self._refuse(None, DRAINING)
        server, as_sent = self.site.server, request
        if server.trusted_proxies:
            request = seen_through_proxies(request, server.trusted_proxies)
        if server.connect_rate is not None:
            wait = self._arrivals.take(request.peer, server.connect_rate, time.monotonic())
            if wait:
                return self._refuse(None, replace(TOO_FAST, retry_after=math.ceil(wait)))
        refusal = check_host(server, as_sent, is_upgrade=True)
        if refusal is not None:
            return self._refuse_host(refusal, as_sent)
        app, room = find_room(self.site, request.path)
        if isinstance(room, Refusal):
            return self._refuse(app, room)
        assert app is not None
        if not allows_origin(app, request):
            self._tell_origin(app, request)
            return self._refuse(app, WRONG_ORIGIN)
        if server.max_connections_per_ip is not None and self._arrivals.is_full(request.peer, server.max_connections_per_ip):
            return self._refuse(app, TOO_MANY_FROM_ADDRESS)
        offer = request.headers.get("sec-websocket-protocol")
        if offer is None:
            return Admission(app, room, request, self)
        try:
            subprotocol = choose_subprotocol(offered_subprotocols(offer), app.subprotocols)
        except HandshakeError as error:
            return self._refuse(app, Refusal(status=error.status, reason="bad_handshake", message=error.message))
        if subprotocol is None:
            self._tell_subprotocol(app)
        return Admission(app, room, request, self, subprotocol)

    def check_page(self, request: Request) -> Refusal | None:
        """Decide on a request that is no upgrade: whether it, as its client sent it, is for a host of this server."""
        refusal = check_host(self.site.server, request, is_upgrade=False)
        return None if refusal is None else self._refuse_host(refusal, request)

    def count(self, refusal: Refusal) -> Refusal:
        """Count a request that is turned away before an app was found for it."""
        return self._refuse(None, refusal)

    def join(self, admission: Admission, client: Client) -> Close | None:
        """Find an admitted client its room; see `Admission.join`."""
        limit = self.site.server.max_connections
        if limit is not None and self.connections >= limit:
            self.refusals["server_full"] += 1
            return SERVER_FULL
        pool = self._pools.get(admission.app.name)
        # An edit between admission and here, on the lane that can wait in between, may have removed the app or its target.
        if pool is None or not pool.app.has_rooms or self.is_draining:
            return SHUTTING_DOWN if self.is_draining else APP_REMOVED
        limit = self.site.server.max_connections_per_ip
        # Likewise: many may have been admitted before the first of them joins.
        if limit is not None and self._arrivals.is_full(client.peer, limit):
            pool.refusals[TOO_MANY_FROM_ADDRESS.reason] += 1
            return ADDRESS_FULL
        client.id = ClientId(next(self._ids))
        try:
            return pool.join(client, admission.room, admission.request)
        except Exception:
            log.exception("joining failed", app=admission.app.name, room=admission.room, client=client.id)
            pool.refusals["internal_error"] += 1
            return INTERNAL_ERROR

    def apply(self, site: Site) -> Plan:
        """Replace the running site, at once and whole; return what that changed. Nothing in here can fail or wait."""
        plan = make_plan(self.site, site)
        self.site = site
        for app in plan.removed:
            pool = self._leaving[app.name] = self._pools.pop(app.name)
            self._close_spread(pool.all_rooms, APP_REMOVED)
            self._forget_if_empty(pool)
        for app in plan.added:
            pool = self._leaving.pop(app.name) if app.name in self._leaving else self._make_pool(app)
            pool.apply(app)
            self._pools[app.name] = pool
        for change in plan.changed:
            self._pools[change.name].apply(change.new)
        return plan

    def restart_app(self, name: str) -> int:
        """Close the rooms of an app with 1012, spread over time, so that they open anew; return how many."""
        rooms = tuple(self._pools[name].rooms.values())
        log.info("restarting", app=name, rooms=len(rooms), clients=sum(len(room.clients) for room in rooms))
        self._close_spread(rooms, ROOM_RESTARTED)
        return len(rooms)

    async def drain(self) -> None:
        """Refuse newcomers, close all clients with 1001, spread over `drain_timeout`, and wait for the backends' ends."""
        self.is_draining = True
        rooms = self._all_rooms()
        for room in rooms:
            with contain_exceptions(room):
                room.retire(SHUTTING_DOWN)
        await self._stop_spread(rooms, SHUTTING_DOWN)
        for room in self._all_rooms():
            await room.wait_ended()

    def cut(self) -> None:
        """Close everybody now, as a second signal demands; the backends still get their ladder."""
        self.is_draining = True
        for room in self._all_rooms():
            with contain_exceptions(room):
                room.stop(SHUTTING_DOWN)

    def status(self) -> SiteStatus:
        """What can be seen of the site now."""
        return SiteStatus(
            apps=tuple(pool.status() for pool in self._pools.values()),
            connections=self.connections,
            is_draining=self.is_draining,
            generation=self.reload_state.generation,
            applied_at=self.reload_state.applied_at,
            last_error=self.reload_state.last_error,
            public_error=self.reload_state.public_error,
            site_file=None if self.site.path is None else str(self.site.path),
            refusals=dict(self.refusals),
        )

    async def forget_arrivals(self) -> None:
        """Forget addresses that no longer matter for `connect_rate`, until cancelled. Started by `open_gateway`, once."""
        while True:
            await anyio.sleep(FORGET_INTERVAL)
            self._arrivals.sweep(self.site.server.connect_rate, time.monotonic())

    async def wait_ended(self) -> None:
        """Wait until every room has ended, also when cancelled; `cut` was called. Their stop ladders have deadlines."""
        cancelled: asyncio.CancelledError | None = None
        while self._lives:
            try:
                await asyncio.wait(self._lives)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def find_all_pools(self) -> tuple[RoomPool, ...]:
        """The pools of all apps, those included that were removed and whose rooms have not all ended."""
        return (*self._pools.values(), *self._leaving.values())

    def _all_rooms(self) -> tuple[Room, ...]:
        return tuple(room for pool in self.find_all_pools() for room in pool.all_rooms)

    def _make_pool(self, app: App) -> RoomPool:
        return RoomPool(
            app,
            open_backend=self._open_backend,
            environment=Environments(),
            start_task=self._start_task,
            stop_limit=self._stop_limit,
            on_client_joined=self._client_joined,
            on_client_left=self._client_left,
            on_room_ended=self._room_ended,
        )

    def _start_task(self, life: Coroutine[object, object, None], /, *, name: str) -> None:
        """Start a room's task. Not in the group: it ends when the room was told to stop, and a group takes 30 us for it."""
        task = asyncio.get_running_loop().create_task(life, name=name)
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)

    def _client_joined(self, client: Client) -> None:
        self.connections += 1
        self._arrivals.join(client.peer)

    def _client_left(self, client: Client) -> None:
        self.connections -= 1
        self._arrivals.leave(client.peer)

    def _room_ended(self, pool: RoomPool) -> None:
        self.room_ended.set()
        self._forget_if_empty(pool)

    def _forget_if_empty(self, pool: RoomPool) -> None:
        if pool.is_empty and self._leaving.get(pool.app.name) is pool:
            del self._leaving[pool.app.name]

    def _refuse(self, app: App | None, refusal: Refusal) -> Refusal:
        pool = None if app is None else self._pools.get(app.name)
        (self.refusals if pool is None else pool.refusals)[refusal.reason] += 1
        log.debug("refused", app=None if app is None else app.name, reason=refusal.reason, status=refusal.status)
        return refusal

    def _refuse_host(self, refusal: Refusal, request: Request) -> Refusal:
        if refusal is WRONG_HOST and self.site.server.hosts is None:
            self._tell_host(request)
        return self.count(refusal)

    def _tell_origin(self, app: App, request: Request) -> None:
        """Log an origin once: browsers hide from a page why it may not connect."""
        told = (app.name, request.headers.get("origin", "")[:MAX_NAME])
        if told not in self._told_origins and len(self._told_origins) < MAX_TOLD:
            self._told_origins.add(told)
            log.warning("origin refused", app=told[0], origin=told[1], hint="list it in origins if its pages may connect")

    def _tell_host(self, request: Request) -> None:
        """Log once that a browser reached the loopback by this host, and how to admit it."""
        authority = parse_authority(request.headers.get("host", ""))
        name = "" if authority is None else authority.host
        if name not in self._told_hosts and len(self._told_hosts) < MAX_TOLD:
            self._told_hosts.add(name)
            hint = f'if it is yours, write hosts = ["localhost", "{name or "play.example"}"] in [server]'
            log.warning("host refused", host=name, hint=hint)

    def _tell_subprotocol(self, app: App) -> None:
        """Log once for an app why its clients may fail. What they offered may be a secret, and is not logged."""
        if app.name not in self._told_subprotocols and len(self._told_subprotocols) < MAX_TOLD:
            self._told_subprotocols.add(app.name)
            log.warning("no subprotocol agreed on", app=app.name, hint=SUBPROTOCOL_HINT)

    def _close_spread(self, rooms: Sequence[Room], close: Close) -> None:
        """Nobody joins these rooms from now on; their clients are closed over time."""
        for room in rooms:
            with contain_exceptions(room):
                room.retire(close)
        if rooms:
            self._tasks.start_soon(partial(self._stop_spread, rooms, close), name="spread closes")

    async def _stop_spread(self, rooms: Sequence[Room], close: Close) -> None:
        """Close the clients of retired rooms one by one, then stop the rooms. Two go at once, thousands take their time."""
        clients = [(room, client) for room in rooms for client in room.clients.values()]
        deadline, closed = anyio.current_time() + self.site.server.drain_timeout, 0
        while closed < len(clients):
            if closed:
                await anyio.sleep(SLICE)
            due, time_left = len(clients), deadline - anyio.current_time()
            if time_left > SLICE:  # by the clock, because to close so many takes time, too
                due = closed + math.ceil(max(CLOSES * SLICE, (len(clients) - closed) * SLICE / time_left))
            for room, client in clients[closed:due]:
                with contain_exceptions(room):
                    if client.id in room.clients:
                        room.expel(client, close)
            closed = due
        for room in rooms:
            with contain_exceptions(room):
                room.stop(close)


@asynccontextmanager
async def open_gateway(site: Site, *, spawner: SpawnerClient, poller: Poller) -> AsyncIterator[Gateway]:
    """Run a site until the block ends; rooms that are left then are stopped without waiting for their clients.

    `spawner` was started; `poller` watches the pipes of backends. Their owner closes both after the block.
    """
    spawner.attach(poller)
    ports = Ports()

    async def open_room_backend(app: App, env: Mapping[str, str], room: str, receiver: Receiver) -> Backend:
        return await open_backend(app, env, room=room, receiver=receiver, spawner=spawner, ports=ports)

    async with anyio.create_task_group() as tasks:
        gateway = Gateway(site, open_backend=open_room_backend, tasks=tasks)
        tasks.start_soon(Sweep(gateway.find_all_pools).run, name="sweep")
        tasks.start_soon(gateway.forget_arrivals, name="forget arrivals")
        try:
            yield gateway
        finally:
            gateway.cut()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await gateway.wait_ended()


class Environments:
    """Makes the whole environment of a room's backend, from its first client's request."""

    __slots__ = ("_app", "_base")

    def __init__(self) -> None:
        self._app: App | None = None
        self._base: Mapping[str, str] = {}

    def __call__(self, app: App, room: str, request: Request) -> dict[str, str]:
        """The environment for a room of `app`; what all its rooms share is looked up once."""
        if app is not self._app:
            self._app, self._base = app, base_environment(app.env, app.pass_env, os.environ)
        script_name = "" if app.mount == "/" else app.mount
        cgi = environment(request, app=app.name, room=room, script_name=script_name, path_info=f"/{room}", software=SOFTWARE)
        return {**self._base, **cgi}
