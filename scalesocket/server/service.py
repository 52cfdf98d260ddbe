"""The service: a gateway with its listeners and lanes, without the signals and reloads of the process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Final, cast

import anyio
from hypercorn.typing import ASGIFramework

from scalesocket.auth.sources import Contents
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.capacity.capacity import Capacity
from scalesocket.cleanup import logged_faults
from scalesocket.config.certificates import Pair
from scalesocket.config.model import Site
from scalesocket.gateway import Gateway, open_gateway
from scalesocket.io.poller import Poller
from scalesocket.operations.running import Running
from scalesocket.operations.table import Operations
from scalesocket.overview import LocalOverview, Overview
from scalesocket.placement.placement import Placement
from scalesocket.reload.preparation import Prepare
from scalesocket.rooms.leases import RoomLeases
from scalesocket.server.admin.lane import AdminLane
from scalesocket.server.admin.listener import AdminListener, open_admin
from scalesocket.server.asgi import GeneralLane
from scalesocket.server.connections import Connections
from scalesocket.server.hypercorn.server import open_hypercorn
from scalesocket.server.listen import Given, Listeners, open_listeners

CLOSING_TIMEOUT: Final = 3.0
"""Seconds for the last closing handshakes, after the last room has ended."""


@dataclass(frozen=True, slots=True)
class Service:
    """A site that is served. `async with open_service(…)` makes one."""

    gateway: Gateway
    connections: Connections
    listeners: Listeners
    operations: Operations
    """The operations on the site, for every interface of its operator."""
    admin: AdminListener
    failed: anyio.Event
    """Set when the server cannot go on, and has logged why."""
    before_drain: Callable[[], None] = lambda: None
    """Called when the server begins to stop."""
    prepare: Sequence[Prepare] = ()
    """Loads what an edit needs besides the listeners."""

    async def drain(self, *, is_everywhere: bool = False) -> None:
        """Close all clients, with 1001 or as the gateway says, and end all backends. The listeners stay open and answer.

        `is_everywhere`: the owners of connections that pass through this process close them, since they drain, too.
        """
        passages = self.connections.passages
        self.before_drain()
        async with anyio.create_task_group() as tasks:
            if not is_everywhere:
                tasks.start_soon(passages.drain, self.gateway.site.server.drain_timeout, name="drain passages")
            await self.gateway.drain()
        with anyio.move_on_after(CLOSING_TIMEOUT):
            await self.connections.wait_no_websockets()
            await passages.wait_none()

    def cut(self) -> None:
        """Abort every connection and stop every room."""
        public, admin = self.connections, self.admin.connections
        for cut in (self.gateway.cut, public.cut_all, public.hypercorn.cut_all, admin.cut_all, admin.hypercorn.cut_all):
            with logged_faults("cutting connections"):
                cut()


@asynccontextmanager
async def open_service(
    site: Site,
    *,
    spawner: SpawnerClient,
    given: Given | None = None,
    pair: Pair | None = None,
    auth_files: Contents | None = None,
    placement: Placement | None = None,
    leases: RoomLeases | None = None,
    capacity: Capacity | None = None,
    attach: Callable[[Gateway], Overview] = LocalOverview,
) -> AsyncIterator[Service]:
    """Listen and serve until the block ends. The caller starts and closes `spawner`. Raises ListenError.

    `given`: the listening sockets, if this process is a worker. It then has no admin surface; its supervisor has that. `pair`:
    the contents of the certificate's files, and `auth_files` of those of `auth`, if the supervisor has read them.
    `placement`: where rooms live, if not all of them in this process; then `open_inbox` takes the connections to rooms here.
    `leases`: the right to open rooms, if other nodes have rooms of the site, too.
    `capacity`: what is counted against the limits of the site, if that is shared with other processes.
    `attach`: called before anything listens; returns what pages and API show of the whole site.
    """
    async with AsyncExitStack() as stack:
        poller = stack.enter_context(closing(Poller(asyncio.get_running_loop())))
        opening = open_gateway(site, spawner=spawner, poller=poller, capacity=capacity, auth_files=auth_files, leases=leases)
        gateway = await stack.enter_async_context(opening)
        overview = attach(gateway)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        lane = GeneralLane(gateway, tasks, overview)
        hypercorn = await stack.enter_async_context(open_hypercorn(cast(ASGIFramework, lane), gateway))
        connections = lane.connections = Connections(gateway, hypercorn, poller)
        connections.placement = placement
        stack.callback(connections.close)
        listeners = await stack.enter_async_context(open_listeners(site.server, connections, given, pair))
        operations = Operations(Running(gateway))
        admin_lane = AdminLane(gateway, gateway, overview, operations)
        admin_server = site.server if given is None else site.server.model_copy(update={"admin": None})
        admin = await stack.enter_async_context(open_admin(admin_lane, admin_server, gateway, poller))
        yield Service(gateway, connections, listeners, operations, admin, anyio.Event())
