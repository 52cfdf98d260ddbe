"""The running site: the rooms of each app, their admission, edits of the site file, and the shutdown.

Owns the tasks of all rooms, and the sweep that checks their deadlines.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from scalesocket.admission.control import AdmissionControl
from scalesocket.auth.identity import Identity
from scalesocket.auth.sources import Contents
from scalesocket.backends.backend import Backend, Receiver
from scalesocket.backends.environment import EnvironmentBuilder
from scalesocket.backends.open import open_backend
from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.capacity.capacity import Capacity
from scalesocket.capacity.local import LocalCapacity
from scalesocket.config.model import App, Site
from scalesocket.config.plan import Plan, make_plan
from scalesocket.drain import drain_rooms, retire_rooms
from scalesocket.errors import APP_DRAINED, APP_REMOVED, LEASE_LOST, ROOM_RESTARTED, Close
from scalesocket.io.poller import Poller
from scalesocket.rooms.containment import contain_exceptions
from scalesocket.rooms.iteration_limit import IterationLimit
from scalesocket.rooms.leases import RoomLeases
from scalesocket.rooms.lifecycle import OpenBackend
from scalesocket.rooms.pool import RoomPool
from scalesocket.rooms.room import Room
from scalesocket.rooms.sweep import Sweep
from scalesocket.status import ReloadState, SiteStatus

log = structlog.get_logger("gateway")

STOPS_PER_ITERATION: Final = 16
"""Backends that begin to stop in one event-loop iteration, at 0.1 ms each; many rooms may end at the same time."""


class Gateway:
    """The running site. `async with open_gateway(…)` makes one."""

    def __init__(
        self,
        site: Site,
        *,
        open_backend: OpenBackend,
        tasks: TaskGroup,
        capacity: Capacity | None = None,
        auth_files: Contents | None = None,
        leases: RoomLeases | None = None,
    ) -> None:
        """Serve `site`. `open_backend` opens the backend of each room; `tasks` runs what closes rooms after an edit.

        `capacity`: what is counted against the limits of the site, if that is shared with other processes. `auth_files`: the
        contents of the files of `auth`, if another process reads them. `leases`: the right to open rooms, if other nodes have
        rooms of the site, too.
        """
        self.site = site
        self._leases = leases
        self._capacity = LocalCapacity() if capacity is None else capacity
        self.reload_state = ReloadState(applied_at=time.time())
        self.room_ended = anyio.Event()
        """Set when the first room has ended."""
        self._open_backend = open_backend
        self._tasks = tasks
        self._room_tasks: set[asyncio.Task[None]] = set()
        self._stop_limit = IterationLimit(STOPS_PER_ITERATION)
        self._removed: dict[str, RoomPool] = {}
        """Pools of removed apps that still have rooms."""
        self._pools: dict[str, RoomPool] = {}
        self.admission = AdmissionControl(site, self._pools, self._capacity, auth_files)
        self._pools.update((name, self._make_pool(app)) for name, app in site.apps.items())

    @property
    def pools(self) -> Mapping[str, RoomPool]:
        """The rooms of each app, by its name."""
        return self._pools

    @property
    def is_draining(self) -> bool:
        """Whether the server is shutting down."""
        return self.admission.is_closed

    @property
    def connections(self) -> int:
        """Websockets that are in a room."""
        return self.admission.occupancy.connections

    @property
    def refusals(self) -> Counter[str]:
        """Requests that were refused before an app was found, by reason."""
        return self.admission.refusals

    def apply(self, site: Site) -> Plan:
        """Replace the running site in one step that cannot fail, and return what has changed."""
        plan = make_plan(self.site, site)
        self.site = site
        self.admission.apply(site)
        for app in plan.removed:
            pool = self._removed[app.name] = self._pools.pop(app.name)
            self.close_rooms(pool.all_rooms, APP_REMOVED)
            self._forget_if_empty(pool)
        for app in plan.added:
            pool = self._removed.pop(app.name) if app.name in self._removed else self._make_pool(app)
            pool.apply(app)
            self._pools[app.name] = pool
        for change in plan.changed:
            self._pools[change.name].apply(change.new)
        return plan

    def restart_app(self, name: str) -> int:
        """Close the rooms of an app gradually with 1012, so that clients open them again; return their number."""
        rooms = tuple(self._pools[name].rooms.values())
        if rooms:  # one line for each worker that has some
            log.info("rooms restarting", app=name, rooms=len(rooms), clients=sum(len(room.clients) for room in rooms))
        self.close_rooms(rooms, ROOM_RESTARTED)
        return len(rooms)

    def close_rooms(self, rooms: Sequence[Room], close: Close) -> None:
        """Admit no more clients to these rooms, close theirs gradually, and stop them. Does not wait."""
        retire_rooms(rooms, close)
        if rooms:
            drain = partial(drain_rooms, rooms, close, timeout=self.site.server.drain_timeout)
            self._tasks.start_soon(drain, name="drain rooms")

    def drain_app(self, name: str) -> tuple[Room, ...]:
        """Admit no more clients to an app until it is edited, and close its rooms gradually with 1001; return those."""
        pool = self._pools[name]
        pool.is_drained = True
        rooms = pool.all_rooms
        self.close_rooms(rooms, APP_DRAINED)
        return rooms

    def start_drain(self) -> None:
        """Begin what `drain` does, without waiting. The server goes on; no client is admitted until it is started again."""
        self.admission.is_closed = True
        self._tasks.start_soon(self.drain, name="drain the site")

    async def drain(self) -> None:
        """Admit no more clients, close all with `farewell` over at most `drain_timeout`, and wait until the rooms have ended."""
        self.admission.is_closed = True
        rooms = self._all_rooms()
        retire_rooms(rooms, self.admission.farewell)
        await drain_rooms(rooms, self.admission.farewell, timeout=self.site.server.drain_timeout)
        for room in self._all_rooms():
            await room.wait_ended()

    def cut(self) -> None:
        """Close all clients at once, after a second signal. Backends are still stopped step by step."""
        self.admission.is_closed = True
        self.end_rooms(self.admission.farewell)

    def end_rooms(self, close: Close) -> None:
        """Close all clients at once and stop all rooms. New ones may be opened."""
        for room in self._all_rooms():
            with contain_exceptions(room):
                room.stop(close)

    def identities_of(self, app: str) -> Iterator[Identity | None]:
        """Return the identity of each client of an app; None for one that joined when the app had no `auth`."""
        pool = self._pools[app]
        return (client.identity for room in pool.all_rooms for client in pool.clients_of(room).values())

    def status(self) -> SiteStatus:
        """Take a snapshot of the site."""
        return SiteStatus(
            apps=tuple(pool.status() for pool in self._pools.values()),
            connections=self.connections,
            is_draining=self.is_draining,
            generation=self.reload_state.generation,
            applied_at=self.reload_state.applied_at,
            last_error=self.reload_state.last_error,
            public_error=self.reload_state.public_error,
            warnings=self.reload_state.warnings,
            site_file=None if self.site.path is None else str(self.site.path),
            refusals=dict(self.refusals),
        )

    async def wait_ended(self) -> None:
        """Wait until every room has ended, even if cancelled. For after `cut`: the stop of a backend has a deadline."""
        cancelled: asyncio.CancelledError | None = None
        while self._room_tasks:
            try:
                await asyncio.wait(self._room_tasks)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def find_all_pools(self) -> tuple[RoomPool, ...]:
        """Return the pools of all apps, and those of removed apps that still have rooms."""
        return (*self._pools.values(), *self._removed.values())

    def _all_rooms(self) -> tuple[Room, ...]:
        return tuple(room for pool in self.find_all_pools() for room in pool.all_rooms)

    def _make_pool(self, app: App) -> RoomPool:
        return RoomPool(
            app,
            open_backend=self._open_backend,
            environment=EnvironmentBuilder().build,
            start_task=self._start_task,
            stop_limit=self._stop_limit,
            capacity=self._capacity.open_app(app.name),
            on_client_enters=self.admission.occupancy.enter,
            on_client_left=self.admission.occupancy.leave,
            on_room_ended=self._room_ended,
            leases=self._leases,
        )

    def _start_task(self, coroutine: Coroutine[object, object, None], /, *, name: str) -> None:
        """Start the task of a room. Not in the task group, which takes 30 us for each; `wait_ended` waits for it."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._room_tasks.add(task)
        task.add_done_callback(self._room_tasks.discard)

    def _room_ended(self, pool: RoomPool) -> None:
        self.room_ended.set()
        self._forget_if_empty(pool)

    def _forget_if_empty(self, pool: RoomPool) -> None:
        if pool.is_empty and self._removed.get(pool.app.name) is pool:
            del self._removed[pool.app.name]
            pool.close()


@asynccontextmanager
async def open_gateway(
    site: Site,
    *,
    spawner: SpawnerClient,
    poller: Poller,
    capacity: Capacity | None = None,
    auth_files: Contents | None = None,
    leases: RoomLeases | None = None,
) -> AsyncIterator[Gateway]:
    """Run a site until the block ends. Rooms that are still open then are stopped without waiting for their clients.

    `spawner` was started; `poller` watches the pipes of backends. The caller closes both after the block. `capacity`,
    `auth_files`, `leases`: see `Gateway`.
    """
    spawner.attach(poller)
    ports = Ports(None if capacity is None else capacity.ports)

    async def open_room_backend(app: App, env: Mapping[str, str], room: str, receiver: Receiver) -> Backend:
        return await open_backend(app, env, room=room, receiver=receiver, spawner=spawner, ports=ports)

    async with anyio.create_task_group() as tasks:
        gateway = Gateway(
            site, open_backend=open_room_backend, tasks=tasks, capacity=capacity, auth_files=auth_files, leases=leases
        )
        spawner.on_expired(partial(gateway.end_rooms, LEASE_LOST))
        tasks.start_soon(Sweep(gateway.find_all_pools).run, name="sweep")
        tasks.start_soon(gateway.admission.sweep, name="sweep addresses")
        tasks.start_soon(gateway.admission.authenticators.resources.run, name="authentication")
        tasks.start_soon(gateway.admission.rechecks.run, name="ask hooks again")
        try:
            yield gateway
        finally:
            gateway.cut()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await gateway.wait_ended()
