"""What operations act on: the running site, and what applies edits of its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scalesocket.control.messages import Outcome, ReloadReport
from scalesocket.gateway import Gateway
from scalesocket.status import Forgotten, NodeEntry, SiteStatus


class Reloading(Protocol):
    """What operations need of `reload.reloader.Reloader`."""

    async def reload(self, trigger: str, *, dry_run: bool = False, restart: str | None = None) -> ReloadReport:
        """Apply the site file."""

    async def diff(self) -> ReloadReport:
        """Compare the file with the running site."""


class Clustered(Protocol):
    """What operations need of a node of a cluster. All raise OperationError; NotFoundError for an unknown node."""

    @property
    def node(self) -> str:
        """The name of this node."""

    def status(self) -> SiteStatus:
        """Take a snapshot of this node's site."""

    async def list_nodes(self) -> Sequence[NodeEntry]:
        """List the nodes."""

    async def drain_node(self, node: str) -> Outcome:
        """Close the rooms of a node, and let it open none."""

    async def forget_node(self, node: str) -> Forgotten:
        """End the lease of a node."""


@dataclass(slots=True)
class Running:
    """The running site."""

    gateway: Gateway
    reloader: Reloading | None = None
    """None for a site without a file, and until the reloader is open."""
    cluster: Clustered | None = None
    """None for a server that is not a node of a cluster."""
