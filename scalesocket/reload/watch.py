"""Detects changes of files, however they are made. Owns no task: `wait_changed` waits in its caller's.

A change is a difference of fingerprints (a stat of each file, through symlinks). The system's notifications only trigger
the comparison. A comparison every POLL seconds finds what they miss: a folder replaced as a whole, a network file system, a
machine without free inotify watches. So writes in place, renames over the file, Kubernetes' swap of a symlinked folder, and
a file that is deleted and created again need no code of their own.
"""

import contextlib
import glob
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import structlog
from watchfiles import awatch

log = structlog.get_logger()

SETTLE: Final = 0.2
"""Seconds without a change after which a file counts as completely written."""
UNREST: Final = 50
"""Multiples of SETTLE after which a warning is logged for files that keep changing."""
POLL: Final = 0.5
"""Seconds between two comparisons without any notification."""
STEP_MS: Final = 50
"""Milliseconds for which the notifier collects events; also the longest that its thread takes to stop."""

Mark = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, time of modification and of change (`cp -p` sets the first back, nothing the second) in ns."""
Fingerprint = Mapping[Path, Mark | None]
"""The mark of each file; None for one that does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedFiles:
    """The files that a running site was read from."""

    files: frozenset[Path]
    """The site file, included files, certificates, and the files of `auth`."""
    folders: frozenset[Path] = frozenset()
    """Where included files are searched (may hold `*`): a new file there is a change, too."""

    def fingerprint(self) -> Fingerprint:
        """Mark every file."""
        return {path: _mark(path) for path in sorted(self.files | self._candidates())}

    def find_detached(self) -> list[Path]:
        """Find the files that were removed from every folder, although their paths still lead to them.

        This happens to a file that is mounted by itself into a container, when the host replaces it, as editors and `mv` do:
        the mount keeps the old file, so later edits never show.
        """
        return [path for path in sorted(self.files) if _is_detached(path)]

    def watched_folders(self) -> list[Path]:
        """The existing folders to watch: those of the files and of each symlink on the way to them."""
        folders = [hop.parent for path in self.files for hop in _hops(path)]
        return [folder for folder in dict.fromkeys([*folders, *self.folders]) if folder.is_dir()]

    def _candidates(self) -> set[Path]:
        """The files that an include may match: those with the suffixes of the known files, as a folder may hold logs, too."""
        suffixes = {path.suffix for path in self.files} | {".toml"}
        found = (Path(name) for folder in self.folders for name in glob.glob(f"{folder}/*"))  # noqa: PTH207 - folders may hold *
        return {path for path in found if path.suffix in suffixes}


async def wait_changed(watched: WatchedFiles, since: Fingerprint) -> Fingerprint:
    """Wait until the files differ from `since` and have not changed for SETTLE seconds; return their fingerprint."""
    await _wait_different(watched, since)
    return await wait_settled(watched)


async def wait_settled(watched: WatchedFiles) -> Fingerprint:
    """Wait until the files have not changed for SETTLE seconds; return their fingerprint."""
    before = watched.fingerprint()
    for waited in itertools.count(1):
        await anyio.sleep(SETTLE)
        now = watched.fingerprint()
        if now == before:
            break
        if waited == UNREST:
            log.warning(
                "reload delayed",
                files=sorted(str(path) for path in _differing(before, now)),
                hint="these files keep changing",
            )
        before = now
    return now


def _differing(before: Fingerprint, now: Fingerprint) -> set[Path]:
    return {path for path in before.keys() | now.keys() if before.get(path) != now.get(path)}


async def _wait_different(watched: WatchedFiles, since: Fingerprint) -> None:
    if watched.fingerprint() != since:
        return
    found = False

    def is_changed() -> bool:
        nonlocal found
        found = found or watched.fingerprint() != since
        return found

    await _wait_notified(watched, is_changed)
    while not is_changed():  # noqa: ASYNC110 - files set no event
        await anyio.sleep(POLL)


async def _wait_notified(watched: WatchedFiles, is_changed: Callable[[], bool]) -> None:
    """Wait until `is_changed` returns True; it is called at each notification, and every POLL seconds.

    Returns early when the system cannot notify: a folder was just removed, or no inotify watch is free.
    """
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_set_when_cancelled, stop, name="end of the file notifier")
        try:
            changes = awatch(
                *watched.watched_folders(),
                watch_filter=None,
                debounce=4 * STEP_MS,
                step=STEP_MS,
                rust_timeout=int(POLL * 1000),
                yield_on_timeout=True,
                recursive=False,
                ignore_permission_denied=True,
                stop_event=stop,
            )
            async with contextlib.aclosing(changes):
                async for _ in changes:
                    if is_changed():
                        break
        except (OSError, RuntimeError, ExceptionGroup) as error:  # RuntimeError: the notifier's own; groups: from its thread
            log.debug("file notifications unavailable", error=str(error), polling_every=POLL)
        tasks.cancel_scope.cancel()


async def _set_when_cancelled(event: anyio.Event) -> None:
    """Stop the notifier's thread, which cannot be cancelled: a shutdown would wait for its timeout."""
    try:
        await anyio.sleep_forever()
    finally:
        event.set()


def _mark(path: Path) -> Mark | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_detached(path: Path) -> bool:
    try:
        return path.stat().st_nlink == 0
    except OSError:
        return False


def _hops(path: Path) -> Iterable[Path]:
    """The path, and the target of each symlink on the way (at most 40, the kernel's limit)."""
    for _ in range(40):
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()
