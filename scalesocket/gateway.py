"""The running site: the rooms of each app, and edits of the site file.

Owns the tasks of all rooms, and the sweep that looks at their deadlines.
"""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from scalesocket import __version__
from scalesocket.admission.control import AdmissionControl
from scalesocket.backends.backend import Backend, Receiver
from scalesocket.backends.open import open_backend
from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import App, Site
from scalesocket.config.plan import Plan, make_plan
from scalesocket.errors import APP_REMOVED, ROOM_RESTARTED, SHUTTING_DOWN, Close
from scalesocket.io.poller import Poller
from scalesocket.rooms.containment import contain_exceptions
from scalesocket.rooms.iteration_limit import IterationLimit
from scalesocket.rooms.lifecycle import OpenBackend
from scalesocket.rooms.pool import RoomPool
from scalesocket.rooms.room import Room
from scalesocket.rooms.sweep import Sweep
from scalesocket.status import ReloadState, SiteStatus
from scalesocket.wire.cgi import base_environment, environment
from scalesocket.wire.handshake import Request

log = structlog.get_logger("gateway")

SOFTWARE: Final = f"scalesocket/{__version__}"
CLOSES: Final = 1000
"""Websockets closed a second when an app or the server goes; more only where `drain_timeout` demands it."""
SLICE: Final = 0.02
"""Seconds between two slices of spread closes."""

STOPS_PER_ITERATION: Final = 16
"""Backends that begin to stop in one event-loop iteration, at 0.1 ms each; many rooms may end at the same time."""


class Gateway:
    """The running site. `async with open_gateway(…)` makes one."""

    def __init__(self, site: Site, *, open_backend: OpenBackend, tasks: TaskGroup) -> None:
        """Serve `site`; every backend is opened by `open_backend`, every room's task is started in `tasks`."""
        self.site = site
        self.reload_state = ReloadState(applied_at=time.time())
        self.room_ended = anyio.Event()
        """Set when the first room has ended."""
        self._open_backend = open_backend
        self._tasks = tasks
        self._lives: set[asyncio.Task[None]] = set()
        self._stop_limit = IterationLimit(STOPS_PER_ITERATION)
        self._leaving: dict[str, RoomPool] = {}  # removed apps whose rooms have not all ended
        self._pools: dict[str, RoomPool] = {}
        self.admission = AdmissionControl(site, self._pools)
        self._pools.update((name, self._make_pool(app)) for name, app in site.apps.items())

    @property
    def pools(self) -> Mapping[str, RoomPool]:
        """The apps by name."""
        return self._pools

    @property
    def is_draining(self) -> bool:
        """Whether the server is shutting down."""
        return self.admission.is_closed

    @property
    def connections(self) -> int:
        """Websockets that are in a room."""
        return self.admission.connections

    @property
    def refusals(self) -> Counter[str]:
        """Requests that were refused before an app was found, by reason."""
        return self.admission.refusals

    def apply(self, site: Site) -> Plan:
        """Replace the running site, at once and whole; return what that changed. Nothing in here can fail or wait."""
        plan = make_plan(self.site, site)
        self.site = self.admission.site = site
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
        log.info("rooms restarting", app=name, rooms=len(rooms), clients=sum(len(room.clients) for room in rooms))
        self._close_spread(rooms, ROOM_RESTARTED)
        return len(rooms)

    async def drain(self) -> None:
        """Refuse newcomers, close all clients with 1001, spread over `drain_timeout`, and wait for the backends' ends."""
        self.admission.is_closed = True
        rooms = self._all_rooms()
        for room in rooms:
            with contain_exceptions(room):
                room.retire(SHUTTING_DOWN)
        await self._stop_spread(rooms, SHUTTING_DOWN)
        for room in self._all_rooms():
            await room.wait_ended()

    def cut(self) -> None:
        """Close everybody now, as a second signal demands; the backends still get their ladder."""
        self.admission.is_closed = True
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
            on_client_joined=self.admission.client_joined,
            on_client_left=self.admission.client_left,
            on_room_ended=self._room_ended,
        )

    def _start_task(self, life: Coroutine[object, object, None], /, *, name: str) -> None:
        """Start a room's task. Not in the group: it ends when the room was told to stop, and a group takes 30 us for it."""
        task = asyncio.get_running_loop().create_task(life, name=name)
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)

    def _room_ended(self, pool: RoomPool) -> None:
        self.room_ended.set()
        self._forget_if_empty(pool)

    def _forget_if_empty(self, pool: RoomPool) -> None:
        if pool.is_empty and self._leaving.get(pool.app.name) is pool:
            del self._leaving[pool.app.name]

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
        tasks.start_soon(gateway.admission.sweep, name="sweep addresses")
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
