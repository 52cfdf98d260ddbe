"""The two surfaces on which HTTP is served, and what each of them shows."""

from enum import Enum, auto

from scalesocket.config.model import App, Server


class Surface(Enum):
    """Who is served: everybody, or the operator."""

    PUBLIC = auto()
    """The listeners of `server.bind`."""
    ADMIN = auto()
    """The listener of `server.admin`, which shows everything."""

    def has_api(self, server: Server) -> bool:
        """Whether the rooms API is served here."""
        return self is Surface.ADMIN or server.api is True

    def has_metrics(self, server: Server) -> bool:
        """Whether `/metrics` is served here."""
        return self is Surface.ADMIN or server.metrics is True

    def lists(self, app: App) -> bool:
        """Whether the rooms of an app are shown here."""
        return self is Surface.ADMIN or app.listed
