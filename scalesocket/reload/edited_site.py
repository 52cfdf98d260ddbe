"""What the reloader edits: a site in this process, or one that other processes serve."""

from typing import Protocol

from scalesocket.config.model import Site
from scalesocket.config.plan import Plan
from scalesocket.control.messages import AffectedKey
from scalesocket.gateway import Gateway
from scalesocket.reload.affected import find_affected
from scalesocket.status import ReloadState


class EditedSite(Protocol):
    """A running site whose file is edited."""

    @property
    def site(self) -> Site:
        """The site in force."""

    @property
    def reload_state(self) -> ReloadState:
        """Kept by the reloader."""

    @property
    def is_draining(self) -> bool:
        """Whether the server is shutting down, so that an edit is refused."""

    async def find_affected(self, site: Site, plan: Plan) -> tuple[AffectedKey, ...]:
        """List the changes of `plan`, which leads to `site`, with the rooms and clients that they affect."""

    def apply(self, site: Site) -> object:
        """Replace the site in one step that cannot fail."""

    async def restart_app(self, name: str) -> int:
        """Close the rooms of an app gradually with 1012; return their number."""


class EditedGateway:
    """A site whose rooms are all in this process (`EditedSite`)."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.reload_state = gateway.reload_state

    @property
    def site(self) -> Site:
        """The site in force."""
        return self._gateway.site

    @property
    def is_draining(self) -> bool:
        """Whether the server is shutting down."""
        return self._gateway.is_draining

    async def find_affected(self, site: Site, plan: Plan) -> tuple[AffectedKey, ...]:
        """List the changes of a plan with what they affect."""
        return find_affected(plan, self.site, site, self._gateway.status(), self._gateway.identities_of)

    def apply(self, site: Site) -> object:
        """Replace the site."""
        return self._gateway.apply(site)

    async def restart_app(self, name: str) -> int:
        """Restart the rooms of an app."""
        return self._gateway.restart_app(name)
