"""Several workers in the test's process: one accepts, and each room is owned by the worker that its name gives.

`open_workers` serves a site with the services of all workers on one event loop, joined by their inboxes as processes are. Its
`Playground` behaves as that of one process: what a test does with a room is done at its owner.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import fields, replace
from typing import Any, Final, cast

from scalesocket.auth.tickets import Tickets
from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.gateway import Gateway
from scalesocket.io.poller import Poller
from scalesocket.overview import LocalOverview, Overview
from scalesocket.placement.inbox import Outbox, make_inbox
from scalesocket.placement.placement import WorkerPlacement
from scalesocket.placement.rendezvous import Rendezvous
from scalesocket.rooms.pool import RoomPool
from scalesocket.rooms.room import Room
from scalesocket.server.connections import Connections
from scalesocket.server.owner import OpenInbox, open_inbox
from scalesocket.server.service import Service, open_service
from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.memory import SharedMemory
from scalesocket.status import AppStatus, Counts, SiteStatus
from tests.playing import Lane, Playground
from tests.reused_spawner import ReusedSpawner

WORKERS: Final = 3
KEY: Final = bytes(range(32))
"""With it, the rooms that most tests use are owned by workers that do not accept: `/game/one`, `/chat/lobby`."""


class SharedSpawner(ReusedSpawner):
    """One spawner for all services of a test; the one that opens first watches its pipes."""

    def attach(self, poller: Poller) -> None:
        if self._poller is None:
            super().attach(poller)


def merge(values: Sequence[Any]) -> Any:
    """Merge what the workers say of one thing: numbers are added, tuples joined, counters and their like merged by field."""
    first = values[0]
    if isinstance(first, bool):
        return any(values)
    if isinstance(first, int | float):
        return sum(values)
    if isinstance(first, tuple):
        return tuple(item for value in values for item in value)
    if isinstance(first, Mapping):
        return dict(sum((Counter(value) for value in values), Counter()))
    if isinstance(first, AppStatus | SiteStatus | Counts):
        return type(first)(**{item.name: merge([getattr(value, item.name) for value in values]) for item in fields(first)})
    return next((value for value in values if value is not None), None)


def merge_sites(sites: Sequence[SiteStatus]) -> SiteStatus:
    """Merge the status of all workers."""
    apps = tuple(merge(of_app) for of_app in zip(*(site.apps for site in sites), strict=True))
    merged: SiteStatus = merge(sites)
    return replace(merged, apps=apps, generation=sites[0].generation, applied_at=sites[0].applied_at)


class CapacityOfWorker(SharedCapacity):
    """What one worker counts together with the others. The ids of clients are 1, 2, 3 …, as tests expect of a server."""

    def __init__(self, memory: SharedMemory, worker: int, client_ids: Iterator[int]) -> None:
        super().__init__(memory, worker)
        self.client_ids = client_ids


class PoolOfWorkers:
    """The rooms of one app, wherever they are."""

    def __init__(self, pools: list[RoomPool]) -> None:
        self._pools = pools

    @property
    def rooms(self) -> dict[str, Room]:
        return {name: room for pool in self._pools for name, room in pool.rooms.items()}

    @property
    def all_rooms(self) -> tuple[Room, ...]:
        return tuple(room for pool in self._pools for room in pool.all_rooms)

    @property
    def is_empty(self) -> bool:
        return all(pool.is_empty for pool in self._pools)

    @property
    def connections(self) -> int:
        return sum(pool.connections for pool in self._pools)

    @property
    def refusals(self) -> Counter[str]:
        return sum((pool.refusals for pool in self._pools), Counter())

    @property
    def rooms_total(self) -> int:
        return sum(pool.rooms_total for pool in self._pools)

    def status(self) -> AppStatus:
        return cast(AppStatus, merge([pool.status() for pool in self._pools]))


class GatewayOfWorkers:
    """The gateways of all workers, as one. Other attributes are those of the first worker's."""

    def __init__(self, gateways: list[Gateway]) -> None:
        self.gateways = gateways

    @property
    def pools(self) -> Mapping[str, PoolOfWorkers]:
        names = self.gateways[0].pools
        return {name: PoolOfWorkers([gateway.pools[name] for gateway in self.gateways]) for name in names}

    @property
    def connections(self) -> int:
        return sum(gateway.connections for gateway in self.gateways)

    @property
    def refusals(self) -> Counter[str]:
        return sum((gateway.refusals for gateway in self.gateways), Counter())

    def find_all_pools(self) -> tuple[RoomPool, ...]:
        return tuple(pool for gateway in self.gateways for pool in gateway.find_all_pools())

    def apply(self, site: Site) -> Plan:
        first, *_ = [gateway.apply(site) for gateway in self.gateways]
        return first

    def status(self) -> SiteStatus:
        return merge_sites([gateway.status() for gateway in self.gateways])

    def restart_app(self, name: str) -> int:
        return sum(gateway.restart_app(name) for gateway in self.gateways)

    def drain_app(self, name: str) -> tuple[Room, ...]:
        return tuple(room for gateway in self.gateways for room in gateway.drain_app(name))

    def start_drain(self) -> None:
        for gateway in self.gateways:
            gateway.start_drain()

    async def drain(self) -> None:
        await asyncio.gather(*(gateway.drain() for gateway in self.gateways))

    def cut(self) -> None:
        for gateway in self.gateways:
            gateway.cut()

    async def wait_ended(self) -> None:
        for gateway in self.gateways:
            await gateway.wait_ended()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.gateways[0], name)


class ConnectionsOfWorkers:
    """The connections of all workers, as those of one. Other attributes are those of the first worker's."""

    def __init__(self, connections: list[Connections]) -> None:
        self._connections = connections

    @property
    def transports(self) -> set[asyncio.Transport]:
        return {transport for connections in self._connections for transport in connections.transports}

    @property
    def websockets(self) -> int:
        return sum(connections.websockets for connections in self._connections)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connections[0], name)


class ServiceOfWorkers:
    """The services of all workers, as one. Other attributes are those of the first worker's."""

    def __init__(self, services: list[Service]) -> None:
        self.services = services

    @property
    def gateway(self) -> Gateway:
        return cast(Gateway, GatewayOfWorkers([service.gateway for service in self.services]))

    @property
    def connections(self) -> Connections:
        return cast(Connections, ConnectionsOfWorkers([service.connections for service in self.services]))

    async def drain(self) -> None:
        await asyncio.gather(*(service.drain(is_everywhere=True) for service in self.services))

    def cut(self) -> None:
        for service in self.services:
            service.cut()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.services[0], name)


class Workers(Playground):
    """A site served by several workers. Clients connect to the first one."""

    def __init__(self, services: list[Service], inboxes: list[OpenInbox], outboxes: list[Outbox], lane: Lane) -> None:
        super().__init__(cast(Service, ServiceOfWorkers(services)), lane)
        self.services = services
        self.inboxes = inboxes
        self.outboxes = outboxes
        """By the worker whose inbox each sends to."""
        self.rendezvous = Rendezvous(WORKERS, KEY)

    @property
    def rechecks(self) -> int:
        return sum(len(service.gateway.admission.rechecks) for service in self.services)

    def owner_of(self, app: str, room: str) -> Service:
        """Return the service of the worker that owns a room."""
        return self.services[self.rendezvous.owner_of(app, room)]

    def names(self, app: str, worker: int) -> Iterator[str]:
        """Return names of rooms that a worker owns."""
        return (name for number in range(10_000) if self.rendezvous.owner_of(app, name := f"room{number}") == worker)

    def name(self, app: str, worker: int = 1) -> str:
        """Return the name of a room that a worker owns."""
        return next(self.names(app, worker))


@asynccontextmanager
async def open_workers(site: Site, lane: Lane = "express") -> AsyncIterator[Workers]:
    """Serve a site on a free port until the block ends; then no backend may be left."""
    loop = asyncio.get_running_loop()
    spawner = SharedSpawner()
    spawner.start()
    try:
        async with AsyncExitStack() as stack:
            pairs = [make_inbox() for _ in range(WORKERS)]
            for end in (end for pair in pairs for end in pair):
                stack.enter_context(end)
            outboxes = [stack.enter_context(closing(Outbox(sending, loop))) for sending, _ in pairs]
            rendezvous = Rendezvous(WORKERS, KEY)
            memory = stack.enter_context(closing(SharedMemory.create(WORKERS)))
            client_ids, tickets = itertools.count(1), Tickets()
            gateways: list[Gateway] = []
            services = []

            def attach(gateway: Gateway) -> Overview:
                gateways.append(gateway)
                gateway.admission.authenticators.resources.tickets = tickets
                return LocalOverview(cast(Gateway, GatewayOfWorkers(gateways)))

            for index in range(WORKERS):
                opened = stack.enter_context(closing(SharedMemory.open(memory.fd)))
                service = await stack.enter_async_context(
                    open_service(
                        site,
                        spawner=spawner,
                        given={} if index else None,
                        placement=WorkerPlacement(index, rendezvous, outboxes),
                        capacity=CapacityOfWorker(opened, index, client_ids),
                        attach=attach,
                    )
                )
                services.append(service)
            inboxes = [
                stack.enter_context(closing(open_inbox(receiving, service.connections, refuse_delivery)))
                for (_, receiving), service in zip(pairs, services, strict=True)
            ]
            workers = Workers(services, inboxes, outboxes, lane)
            try:
                yield workers
            finally:
                await workers.leave_all()
        assert not spawner.groups, "backends were left behind"
    finally:
        spawner.close()


def refuse_delivery(delivery: object, fd: int) -> None:
    """There is no supervisor in these tests."""
    raise AssertionError(f"unexpected delivery: {delivery}")
