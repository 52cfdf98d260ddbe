"""The authenticators of all apps of a site, and their replacement after an edit."""

from scalesocket.auth.authenticator import Authenticator
from scalesocket.auth.failures import FailureTable
from scalesocket.auth.resources import Resources
from scalesocket.config.model import Site


class Authenticators:
    """The authenticator of each app that has `auth`."""

    def __init__(self, site: Site) -> None:
        """Authenticate clients of `site`."""
        self.resources = Resources()
        """What all of them share. Its task, `resources.run`, is started by `open_gateway`."""
        self._failures: dict[str, FailureTable] = {}
        self._by_app: dict[str, Authenticator] = {}
        self.apply(site)

    def __getitem__(self, app: str) -> Authenticator:
        """Return the authenticator of an app, which has `auth`."""
        return self._by_app[app]

    def apply(self, site: Site) -> None:
        """Take on an edited site: for new clients; nobody who is connected is asked again."""
        tables = {name: app.auth for name, app in site.apps.items() if app.auth is not None}
        self.resources.apply(tables)
        self._failures = {name: self._failures.get(name) or FailureTable() for name in tables}
        self._by_app = {
            name: Authenticator(site.apps[name], auth, self._failures[name], self.resources) for name, auth in tables.items()
        }
