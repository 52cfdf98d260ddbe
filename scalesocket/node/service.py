"""The service of a node: the site, with its rooms shared by all nodes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import Site
from scalesocket.gateway import Gateway
from scalesocket.node.all_nodes import AllNodes
from scalesocket.node.control import NodeControl
from scalesocket.node.lobby import ClusterOverview
from scalesocket.node.node import open_node
from scalesocket.overview import LocalOverview, Overview
from scalesocket.server.service import Service, open_service


@asynccontextmanager
async def open_node_service(site: Site, spawner: SpawnerClient) -> AsyncIterator[Service]:
    """Serve a site with `[cluster]` until the block ends (`open_service`). Raises ListenError."""
    async with open_node(site, spawner) as node:

        def attach(gateway: Gateway) -> Overview:
            node.attach(gateway)
            overview = ClusterOverview(LocalOverview(gateway), node.directory, node.lease)
            overview.describe = node.describe
            return overview

        serving = open_service(site, spawner=spawner, placement=node.placement, leases=node.claims, attach=attach)
        async with serving as service, node.serve(service) as peers:
            running = service.operations.running
            running.cluster = control = NodeControl(node, service.gateway, peers)
            service.operations.operate_on(AllNodes(node.name, running, node.responder.own, control.find_others, peers))
            node.on_failure = service.failed.set
            yield replace(service, before_drain=node.stop, prepare=node.prepare)
