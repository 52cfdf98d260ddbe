"""Reads the site file once it is completely written, and checks it against this machine."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog
from anyio import to_thread

from scalesocket.auth.sources import sources_of
from scalesocket.config.load import Loaded, load_site_with_origins
from scalesocket.config.machine import check_machine
from scalesocket.config.model import Site
from scalesocket.config.problems import ConfigError, Problem, Severity
from scalesocket.reload.overrides import Overrides
from scalesocket.reload.watch import Fingerprint, WatchedFiles, wait_changed, wait_settled

log = structlog.get_logger()


class SiteReader:
    """Reads a site file, and keeps track of the files it consists of."""

    def __init__(self, path: Path, overrides: Overrides) -> None:
        """Read `path`, and apply `overrides` to it."""
        self._path = path
        self._overrides = overrides
        self._watched = WatchedFiles(files=frozenset({path}))
        self._read: Fingerprint = {}
        self._detached: set[Path] = set()  # files that a warning was logged for

    async def read(self) -> Loaded:
        """Read the file once it is settled, and again if it changed meanwhile.

        Parsing runs in a thread, so that a large file does not block the event loop. Raises ConfigError.
        """
        while True:
            before = await wait_settled(self._watched)
            self._read = before  # before anything can fail: a bug in reading must not make it read the same file again and again
            result = await to_thread.run_sync(self._load, abandon_on_cancel=True)
            watched = self._files_of(result)
            is_stable = watched == self._watched and watched.fingerprint() == before
            self._watched = watched
            if not is_stable:
                continue
            self._warn_of_detached()
            if isinstance(result, ConfigError):
                raise result
            return result

    async def wait_changed(self) -> None:
        """Wait until the files differ from what was last read, and are settled."""
        await wait_changed(self._watched, self._read)

    def _warn_of_detached(self) -> None:
        detached = set(self._watched.find_detached())
        if detached - self._detached:
            log.warning(
                "mounted files not watched",
                files=sorted(str(path) for path in detached),
                hint="each was replaced outside of its mount: mount their folder instead, and start the container again",
            )
        self._detached = detached

    def _load(self) -> Loaded | ConfigError:
        try:
            loaded = load_site_with_origins(self._path, with_machine=True)
        except ConfigError as error:
            return error
        return replace(loaded, site=self._overrides.amend(loaded.site))

    def _files_of(self, result: Loaded | ConfigError) -> WatchedFiles:
        """The files to watch from now on. After an error: those known before and those that it names."""
        if isinstance(result, ConfigError):
            named = {problem.place.file.absolute() for problem in result.problems if problem.place.file is not None}
            return WatchedFiles(files=self._watched.files | named, folders=self._watched.folders)
        used = (file for files in find_watched(result.site).values() for file in files)
        return WatchedFiles(files=result.files.union(used), folders=result.folders)


async def find_missing(loaded: Loaded) -> tuple[Problem, ...]:
    """Find what the site needs and this machine lacks; log warnings. Runs in a thread: folders may be on a network."""
    check = partial(check_machine, loaded.site, loaded.origins)
    problems = await to_thread.run_sync(check, abandon_on_cancel=True)
    for problem in (*loaded.warnings, *problems):
        if problem.severity is Severity.WARNING:
            log.warning(str(problem))
    return tuple(problem for problem in problems if problem.severity is Severity.ERROR)


def find_watched(site: Site) -> Mapping[str, Sequence[Path]]:
    """Return the files that a site uses besides its own: by the key that names them, such as `server.tls`."""
    tls = site.server.tls
    found: dict[str, Sequence[Path]] = {} if tls is None else {"server.tls": (tls.certificate, tls.key)}
    if site.cluster is not None and site.cluster.tls is not None:
        found["cluster.tls"] = (site.cluster.tls.certificate, site.cluster.tls.key, site.cluster.tls.ca)
    for app in site.apps.values():
        if files := tuple(source.file for source in sources_of(app)):
            found[f"apps.{app.name}.auth"] = files
    return found


def digest_files(site: Site) -> Mapping[str, str]:
    """Hash the contents of the files that a site uses, by their key; empty if one of them cannot be read."""
    return {key: _digest(files) for key, files in find_watched(site).items()}


def _digest(files: Sequence[Path]) -> str:
    try:
        return hashlib.sha256(b"\0".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    except OSError:
        return ""
