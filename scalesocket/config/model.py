"""A site as frozen data, and the names of its parts for importers.

Every key is declared in `server_settings.py`, `app_settings.py` or the module of a table within them; the schema,
`docs/config.md` and the reload plan are made from there. Durations are seconds, sizes bytes and paths absolute, whatever form
the file has.
"""

from pathlib import Path

from scalesocket.config.addresses import Endpoint, PortRange
from scalesocket.config.admin import Admin
from scalesocket.config.app_settings import App, History, Limits
from scalesocket.config.auth_settings import Auth, Failures, Jwt
from scalesocket.config.cluster_settings import Cluster, ClusterTls
from scalesocket.config.hook_settings import Hook
from scalesocket.config.keys import Table
from scalesocket.config.rates import ConnectRate, Rate, RoomRate
from scalesocket.config.routing import Routes, Routing
from scalesocket.config.server_settings import Log, Server, Tls
from scalesocket.config.units import KiB, MiB

__all__ = [
    "Admin",
    "App",
    "Auth",
    "Cluster",
    "ClusterTls",
    "ConnectRate",
    "Endpoint",
    "Failures",
    "History",
    "Hook",
    "Jwt",
    "KiB",
    "Limits",
    "Log",
    "MiB",
    "PortRange",
    "Rate",
    "RoomRate",
    "Routes",
    "Routing",
    "Server",
    "Site",
    "Tls",
]


class Site(Table):
    """A whole site file."""

    server: Server = Server()
    cluster: Cluster | None = None
    """None: the server is alone."""
    apps: dict[str, App]
    path: Path | None = None
    """The file it was read from; None when it was made from a command line."""
