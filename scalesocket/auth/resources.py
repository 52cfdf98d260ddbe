"""What the authenticators of a site share: its HTTP client, fetched keys, hooks, tickets and password hasher.

`run` starts the tasks that fetch keys, and closes the client and the hasher.
"""

from collections.abc import Mapping

import anyio
from anyio.abc import TaskGroup

from scalesocket.auth.hook import HookClient
from scalesocket.auth.http_client import HttpClient
from scalesocket.auth.key_source import KeySource
from scalesocket.auth.tickets import Tickets, TicketTable
from scalesocket.auth.users import PasswordHasher
from scalesocket.config.model import Auth, Hook

KeysOf = tuple[str, tuple[str, ...] | None]
"""URL and allowed algorithms. Apps with the same ones share a source."""


class Resources:
    """The shared parts. They outlive edits of the site file that do not concern them."""

    def __init__(self, workers: int = 1) -> None:
        """`workers`: the processes that share the bounds of hooks and of the hasher."""
        self.tickets: TicketTable = Tickets()
        """A worker asks its supervisor instead."""
        self.hasher = PasswordHasher(workers)
        self._workers = workers
        self._http = HttpClient()
        self._sources: dict[KeysOf, KeySource] = {}
        self._hooks: dict[str, HookClient] = {}
        self._scopes: dict[KeysOf, anyio.CancelScope] = {}
        self._tasks: TaskGroup | None = None

    def apply(self, tables: Mapping[str, Auth]) -> None:
        """Use the `auth` tables of an edited site, by app. Cannot fail."""
        wanted = {source for auth in tables.values() if (source := keys_of(auth)) is not None}
        for gone in self._sources.keys() - wanted:
            del self._sources[gone]
            if gone in self._scopes:
                self._scopes.pop(gone).cancel()
        for new in wanted - self._sources.keys():
            self._sources[new] = KeySource(*new, self._http)
            self._start(new)
        self._hooks = {app: self._hook_of(app, auth.hook) for app, auth in tables.items() if auth.hook is not None}

    def find_source(self, auth: Auth) -> KeySource | None:
        """Return the source of `jwt.keys_url`, if the table has one."""
        source = keys_of(auth)
        return None if source is None else self._sources[source]

    def find_hook(self, app: str) -> HookClient | None:
        """Return the hook of an app, if it has one."""
        return self._hooks.get(app)

    async def run(self) -> None:
        """Fetch keys until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for source in self._sources:
                    self._start(source)
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            self.hasher.close()
            with anyio.CancelScope(shield=True):
                await self._http.close()

    def _start(self, source: KeysOf) -> None:
        if self._tasks is not None:
            scope = self._scopes[source] = anyio.CancelScope()
            self._tasks.start_soon(run_in, scope, self._sources[source], name="fetch keys")

    def _hook_of(self, app: str, settings: Hook) -> HookClient:
        old = self._hooks.get(app)
        return old if old is not None and old.settings == settings else HookClient(app, settings, self._http, self._workers)


async def run_in(scope: anyio.CancelScope, source: KeySource) -> None:
    """Fetch the keys of a source until its scope is cancelled."""
    with scope:
        await source.run()


def keys_of(auth: Auth) -> KeysOf | None:
    """Return what identifies the source of an app's fetched keys."""
    jwt = auth.jwt
    return None if jwt is None or jwt.keys_url is None else (jwt.keys_url, jwt.algorithms)
