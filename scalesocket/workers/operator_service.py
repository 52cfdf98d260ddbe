"""What the supervisor serves itself: operations on the site of all workers, the admin surface, and tickets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import anyio

from scalesocket.auth.tickets import Tickets
from scalesocket.backends.backend import Backend
from scalesocket.config.model import Site
from scalesocket.errors import BackendError
from scalesocket.gateway import Gateway
from scalesocket.io.poller import Poller
from scalesocket.operations.running import Running
from scalesocket.operations.table import Operations
from scalesocket.server.admin.lane import AdminLane
from scalesocket.server.admin.listener import AdminListener, open_admin
from scalesocket.workers.all_workers import AllWorkers
from scalesocket.workers.drains import repeat_drains
from scalesocket.workers.link import Handlers
from scalesocket.workers.merged_overview import MergedOverview
from scalesocket.workers.overview import serve_overview
from scalesocket.workers.slot import Worker
from scalesocket.workers.tickets import serve_tickets
from scalesocket.workers.workers import Workers


@dataclass(frozen=True, slots=True)
class OperatorService:
    """The site of all workers, for operators. `async with open_operator_service(…)` makes one."""

    gateway: Gateway
    """Has no apps. It holds the state of edits and of the shutdown, and counts requests to the admin surface that are refused."""
    operations: Operations
    overview: MergedOverview
    admin: AdminListener

    def note_shutdown(self) -> None:
        """Show that the server is shutting down."""
        self.gateway.admission.is_closed = True


@asynccontextmanager
async def open_operator_service(workers: Workers) -> AsyncIterator[OperatorService]:
    """Serve operators of the site of `workers` until the block ends; open it before their first process. Raises ListenError."""
    async with anyio.create_task_group() as tasks:
        with closing(Poller(asyncio.get_running_loop())) as poller:
            gateway = Gateway(without_apps(workers.site), open_backend=_refuse_backend, tasks=tasks)
            workers.on_site.append(lambda site: gateway.apply(without_apps(site)))
            running = Running(gateway)
            overview, tickets = MergedOverview(workers, gateway), Tickets()

            def install(worker: Worker, handlers: Handlers) -> None:
                overview.install(worker, handlers)
                serve_overview(handlers, overview)
                serve_tickets(handlers, tickets)

            workers.installs.append(install)
            for worker in workers.members:
                worker.on_ready.append(lambda worker: repeat_drains(worker, workers, tasks))
            operations = Operations(running, AllWorkers(workers, overview, running))
            lane = AdminLane(gateway, workers, overview, operations)
            async with open_admin(lane, workers.site.server, gateway, poller) as admin:
                yield OperatorService(gateway, operations, overview, admin)
        tasks.cancel_scope.cancel()


def without_apps(site: Site) -> Site:
    """Return a site with the same server and no apps."""
    return site.model_copy(update={"apps": {}})


async def _refuse_backend(*_: object) -> Backend:
    raise BackendError("the supervisor has no rooms")
