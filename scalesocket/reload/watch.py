"""Noticing that a file changed, however it was changed. Owns no task: whoever calls `wait_changed` waits.

What counts is the fingerprint of the files (a stat of each, through symlinks). The system's notifications only say when to
look; a look every POLL seconds finds what they miss: a folder that was swapped as a whole, a network file system, a
machine out of inotify watches. So in-place writes, renames over the file, Kubernetes' swap of a symlinked folder, and a
file that is deleted and comes back are one and the same thing here.
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
"""Seconds without a change before a file that is being written counts as written."""
UNREST: Final = 50
"""Times SETTLE after which files that are still being changed are worth a warning."""
POLL: Final = 0.5
"""Seconds between two looks without any notification."""
STEP_MS: Final = 50
"""Milliseconds over which the notifier gathers events; also how soon its thread ends when told to."""

Mark = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, time of modification and of change (`cp -p` sets the first back, nothing the second) in ns."""
Fingerprint = Mapping[Path, Mark | None]
"""What each file is; None for one that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedFiles:
    """What a running site was made from."""

    files: frozenset[Path]
    """The site file, included files, certificates and keys."""
    folders: frozenset[Path] = frozenset()
    """Where included files are looked for (may hold `*`): a file that appears there is a change, too."""

    def fingerprint(self) -> Fingerprint:
        """Look at every file."""
        return {path: _mark(path) for path in sorted(self.files | self._candidates())}

    def find_detached(self) -> list[Path]:
        """The files that no folder has any more, although their paths lead to them.

        So is a file that was mounted into a container by itself when the host replaces it, as editors do and `mv`: the mount
        keeps the old one, and no later edit ever shows.
        """
        return [path for path in sorted(self.files) if _is_detached(path)]

    def homes(self) -> list[Path]:
        """The existing folders in which a change would show: those of the files and of each link on the way to them."""
        homes = [hop.parent for path in self.files for hop in _hops(path)]
        return [folder for folder in dict.fromkeys([*homes, *self.folders]) if folder.is_dir()]

    def _candidates(self) -> set[Path]:
        """The files an include may pick up: those called like the files there are (logs and the like may be there, too)."""
        suffixes = {path.suffix for path in self.files} | {".toml"}
        found = (Path(name) for folder in self.folders for name in glob.glob(f"{folder}/*"))  # noqa: PTH207 - folders may hold *
        return {path for path in found if path.suffix in suffixes}


async def wait_changed(watched: WatchedFiles, since: Fingerprint) -> Fingerprint:
    """Wait until the files differ from `since` and have then been left alone for SETTLE seconds; return what they are."""
    await _wait_different(watched, since)
    return await wait_settled(watched)


async def wait_settled(watched: WatchedFiles) -> Fingerprint:
    """Wait until the files have been left alone for SETTLE seconds; return what they are."""
    before = watched.fingerprint()
    for waited in itertools.count(1):
        await anyio.sleep(SETTLE)
        now = watched.fingerprint()
        if now == before:
            break
        if waited == UNREST:
            log.warning("not reloading yet: these keep changing", files=sorted(str(path) for path in _differing(before, now)))
        before = now
    return now


def _differing(before: Fingerprint, now: Fingerprint) -> set[Path]:
    return {path for path in before.keys() | now.keys() if before.get(path) != now.get(path)}


async def _wait_different(watched: WatchedFiles, since: Fingerprint) -> None:
    if watched.fingerprint() != since:
        return
    found = False

    def look() -> bool:
        nonlocal found
        found = found or watched.fingerprint() != since
        return found

    await _wait_notified(watched, look)
    while not look():  # noqa: ASYNC110 - files set no event
        await anyio.sleep(POLL)


async def _wait_notified(watched: WatchedFiles, look: Callable[[], bool]) -> None:
    """Return when `look` says so: it is asked at each notification, and every POLL seconds.

    Returns early when the system notifies no more: a folder went away just now, or there is no inotify watch to spare.
    """
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_set_when_cancelled, stop, name="end of the file notifier")
        try:
            changes = awatch(
                *watched.homes(),
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
                    if look():
                        break
        except (OSError, RuntimeError, ExceptionGroup) as error:  # RuntimeError: the notifier's own; groups: from its thread
            log.debug("file notifications are off, looking instead", error=str(error), every=POLL)
        tasks.cancel_scope.cancel()


async def _set_when_cancelled(event: anyio.Event) -> None:
    """The notifier's thread cannot be cancelled and sees only its event: without this a shutdown would wait for its timeout."""
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
    """The path, and what it leads to link by link (at most 40, as the kernel has it)."""
    for _ in range(40):
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()
