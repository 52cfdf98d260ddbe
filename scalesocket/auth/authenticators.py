"""The authenticators of all apps of a site, and their replacement after an edit of the site or of the files they read."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import structlog
from anyio import to_thread

from scalesocket.auth.authenticator import Authenticator
from scalesocket.auth.resources import Resources
from scalesocket.auth.sources import NOTHING, AuthFileError, Contents, Parsed, Source, load_source, parse_source, sources_of
from scalesocket.auth.turns import Turns
from scalesocket.config.model import Site

log = structlog.get_logger("auth")

Loaded = TypeVar("Loaded")


class Authenticators:
    """The authenticator of each app that has `auth`."""

    def __init__(
        self,
        site: Site,
        *,
        make_turns: Callable[[str], Turns] | None = None,
        workers: int = 1,
        contents: Contents | None = None,
    ) -> None:
        """Authenticate clients of `site`. Reads its files; raises AuthFileError.

        `make_turns` makes the turns of an app, if other processes have a part in them. `workers`: the processes that share the
        bounds of slow ways. `contents`: of the files, if another process reads them.
        """
        self._make_turns = make_turns
        self.resources = Resources(workers)
        """What all of them share. Its task, `resources.run`, is started by `open_gateway`."""
        self._turns: dict[str, Turns] = {}
        self._by_app: dict[str, Authenticator] = {}
        self._prepared: Parsed | None = None
        """What the files contain that the next edit needs."""
        self._parsed: Parsed = load_all(site, {}, [], _loader(contents))
        self.apply(site)

    def __getitem__(self, app: str) -> Authenticator:
        """Return the authenticator of an app, which has `auth`."""
        return self._by_app[app]

    async def prepare(self, site: Site, _: object = None, *, contents: Contents | None = None) -> "AuthPreparation":
        """Read the files of an edited site, or take their `contents`. Raises AuthFileError for a file that was not used before.

        A broken file that was is logged, and its last valid contents stay in use: the preparation warns of that.
        """
        warnings: list[str] = []
        load = _loader(contents)
        self._prepared = await to_thread.run_sync(load_all, site, self._parsed, warnings, load, abandon_on_cancel=True)
        return AuthPreparation(self, warnings)

    def apply(self, site: Site) -> None:
        """Use an edited site for new clients; connected clients are not authenticated again. Cannot fail.

        Files that no `prepare` has read are read here; if that fails, they let no one in.
        """
        parsed = self._parsed if self._prepared is None else self._prepared
        tables = {name: app.auth for name, app in site.apps.items() if app.auth is not None}
        needed = {source for name in tables for source in sources_of(site.apps[name])}
        self._parsed = {source: parsed[source] if source in parsed else _load_or_nothing(source) for source in needed}
        self.resources.apply(tables)
        self._turns = {name: self._turns.get(name) or self._new_turns(name) for name in tables}
        self._by_app = {
            name: Authenticator(site.apps[name], auth, self._parsed, turns=self._turns[name], resources=self.resources)
            for name, auth in tables.items()
        }

    def _new_turns(self, app: str) -> Turns:
        return Turns() if self._make_turns is None else self._make_turns(app)

    def forget_prepared(self) -> None:
        """Forget what `prepare` has read: the edit was applied, or it failed."""
        self._prepared = None


class AuthPreparation:
    """Files that were read for an edit (`reload.preparation.Preparation`)."""

    def __init__(self, authenticators: Authenticators, warnings: Sequence[str]) -> None:
        self._authenticators = authenticators
        self.warnings = warnings
        """Files that are broken, whose last valid contents stay in use."""

    def commit(self) -> None:
        """Do nothing more: `Authenticators.apply` has used the files."""
        self._authenticators.forget_prepared()

    def roll_back(self) -> None:
        """Forget the files."""
        self._authenticators.forget_prepared()


def _loader(contents: Contents | None) -> Callable[[Source], object]:
    """Return what loads a file: from `contents` if another process has read it."""
    return load_source if contents is None else lambda source: parse_source(source, contents[source])


def load_all(
    site: Site, last: Mapping[Source, Loaded], warnings: list[str], load: Callable[[Source], Loaded]
) -> dict[Source, Loaded]:
    """Load the files of a site. Adds to `warnings` those that are broken, which keep what is in `last`. Raises AuthFileError."""
    parsed = {}
    for app in site.apps.values():
        for source in sources_of(app):
            try:
                parsed[source] = load(source)
            except AuthFileError as error:
                where = f"apps.{app.name}.auth.{source.key}"
                if source not in last:
                    raise AuthFileError(f"{where}: {error}") from None
                log.error(f"{where}: {error}", hint="the last valid contents of the file stay in use")
                warnings.append(f"{where}: the last valid contents of the file stay in use: {error}")
                parsed[source] = last[source]
    return parsed


def _load_or_nothing(source: Source) -> object:
    try:
        return load_source(source)
    except AuthFileError as error:
        log.error(f"auth.{source.key}: {error}", hint="nobody is let in by this file")
        return NOTHING[source.key]
