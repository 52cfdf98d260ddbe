"""Reading the site file when nobody is writing it."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog
from anyio import to_thread

from scalesocket.config.load import Loaded, load_site_with_origins
from scalesocket.config.machine import check_machine
from scalesocket.config.model import Site
from scalesocket.config.problems import ConfigError, Problem, Severity
from scalesocket.reload.overrides import Overrides
from scalesocket.reload.watch import Fingerprint, WatchedFiles, wait_changed, wait_settled

log = structlog.get_logger()


class SiteReader:
    """Reads one site file as often as asked, and knows which files it was made from."""

    def __init__(self, path: Path, overrides: Overrides) -> None:
        """Read `path`, always with `overrides` in force."""
        self._path = path
        self._overrides = overrides
        self._watched = WatchedFiles(files=frozenset({path}))
        self._read: Fingerprint = {}
        self._detached: set[Path] = set()  # those that were warned of

    async def read(self) -> Loaded:
        """Read the file once it has been left alone for a moment, and again if it changed meanwhile.

        Parsing runs in a thread: a large file must not keep the loop from its clients. Raises ConfigError.
        """
        while True:
            before = await wait_settled(self._watched)
            self._read = before  # also when a mistake of ours ends this: it is not to be read again and again
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
        """Wait until the files are not what was last read, and have then been left alone for a moment."""
        await wait_changed(self._watched, self._read)

    def _warn_of_detached(self) -> None:
        detached = set(self._watched.find_detached())
        if detached - self._detached:
            log.warning(
                "edits of these files cannot be seen: each is mounted by itself and was replaced outside of the mount",
                files=sorted(str(path) for path in detached),
                hint="mount the folder that holds them, not the files, and start the container again",
            )
        self._detached = detached

    def _load(self) -> Loaded | ConfigError:
        try:
            loaded = load_site_with_origins(self._path, is_machine_meant=True)
        except ConfigError as error:
            return error
        return replace(loaded, site=self._overrides.amend(loaded.site))

    def _files_of(self, result: Loaded | ConfigError) -> WatchedFiles:
        """What to watch from now on. A file that cannot be understood adds those it blames to those known before."""
        if isinstance(result, ConfigError):
            blamed = {problem.place.file.absolute() for problem in result.problems if problem.place.file is not None}
            return WatchedFiles(files=self._watched.files | blamed, folders=self._watched.folders)
        tls = result.site.server.tls
        certificates = frozenset() if tls is None else frozenset({tls.certificate, tls.key})
        return WatchedFiles(files=result.files | certificates, folders=result.folders)


async def find_missing(loaded: Loaded) -> tuple[Problem, ...]:
    """What this machine lacks for a site; warnings go to the log. In a thread: folders may be on a network."""
    check = partial(check_machine, loaded.site, loaded.origins)
    problems = await to_thread.run_sync(check, abandon_on_cancel=True)
    for problem in (*loaded.warnings, *problems):
        if problem.severity is Severity.WARNING:
            log.warning(str(problem))
    return tuple(problem for problem in problems if problem.severity is Severity.ERROR)


def digest_certificates(site: Site) -> str:
    """A hash of what the files of `tls` hold; empty without tls, and when one of them cannot be read."""
    tls = site.server.tls
    if tls is None:
        return ""
    try:
        return hashlib.sha256(tls.certificate.read_bytes() + b"\0" + tls.key.read_bytes()).hexdigest()
    except OSError:
        return ""
