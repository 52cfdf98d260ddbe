"""Connects a worker to the whole site: its overview, operations for the supervisor, and tickets."""

from scalesocket.gateway import Gateway
from scalesocket.operations.running import Running
from scalesocket.overview import LocalOverview, Overview
from scalesocket.placement.placement import WorkerPlacement
from scalesocket.workers.link import Handlers, Link
from scalesocket.workers.overview import SUPERVISOR_TIMEOUT, LinkedOverview, WorkerOverview, serve_overview
from scalesocket.workers.own_rooms import OwnRooms
from scalesocket.workers.setup import Setup
from scalesocket.workers.site_messages import LastStatus
from scalesocket.workers.tickets import LinkedTickets


class Membership:
    """The connection of a worker's gateway with the supervisor."""

    def __init__(self, setup: Setup, link: Link, handlers: Handlers, placement: WorkerPlacement) -> None:
        self._setup = setup
        self._link = link
        self._handlers = handlers
        self._placement = placement

    def attach(self, gateway: Gateway) -> Overview:
        """Connect the gateway, before anything listens. Return what its pages and API show."""
        gateway.admission.authenticators.resources.tickets = LinkedTickets(self._link)
        gateway.admission.is_closed = self._setup.is_draining
        for name in self._setup.drained:
            if name in gateway.pools:
                gateway.drain_app(name)
        local = LocalOverview(gateway)
        serve_overview(self._handlers, local)
        OwnRooms(Running(gateway)).add_handlers(self._handlers)
        return WorkerOverview(local, LinkedOverview(self._link, timeout=SUPERVISOR_TIMEOUT), self._placement)

    def report_last(self, gateway: Gateway) -> None:
        """Tell the supervisor the totals of this process, which is about to end."""
        self._link.notify(LastStatus(gateway.status()))
