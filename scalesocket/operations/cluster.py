"""Operations on the nodes of a cluster."""

from collections.abc import Sequence

from scalesocket.control.messages import ClusterDrain, ClusterForget, ClusterStatus, Outcome
from scalesocket.operations.lookup import OperationError
from scalesocket.operations.running import Clustered, Running
from scalesocket.status import Forgotten, NodeEntry


async def list_nodes(running: Running, _: ClusterStatus) -> Sequence[NodeEntry]:
    """List the nodes. Raises OperationError."""
    return await _cluster(running).list_nodes()


async def drain_node(running: Running, request: ClusterDrain) -> Outcome:
    """Drain a node. Raises NotFoundError and OperationError."""
    return await _cluster(running).drain_node(request.node)


async def forget_node(running: Running, request: ClusterForget) -> Forgotten:
    """End the lease of a dead node. Raises NotFoundError and OperationError."""
    return await _cluster(running).forget_node(request.node)


def _cluster(running: Running) -> Clustered:
    if running.cluster is None:
        raise OperationError("this server is not a node of a cluster (its site file has no [cluster])")
    return running.cluster
