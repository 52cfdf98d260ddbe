"""What operations act on: the running site, and what applies edits of its file."""

from dataclasses import dataclass
from typing import Protocol

from scalesocket.control.messages import ReloadReport
from scalesocket.gateway import Gateway


class Reloading(Protocol):
    """What operations need of `reload.reloader.Reloader`."""

    async def reload(self, trigger: str, *, dry_run: bool = False, restart: str | None = None) -> ReloadReport:
        """Apply the site file."""

    async def diff(self) -> ReloadReport:
        """Compare the file with the running site."""


@dataclass(slots=True)
class Running:
    """The running site."""

    gateway: Gateway
    reloader: Reloading | None = None
    """None for a site without a file, and until the reloader is open."""
