"""The limit of open files: whether it is high enough, and how it is raised."""

import errno
import fcntl
import os
import resource
from typing import Final

import structlog

from scalesocket.config.model import Site
from scalesocket.errors import ScalesocketError

log = structlog.get_logger("server")

START_FILES: Final = 32
"""Files that a server must be able to open to start, without those of its addresses and workers. A simple site opens 17."""
SPAWNER_FILES: Final = 16
"""Those of them that are opened before the soft limit is raised. About 10 are."""
FILES_OF_ADDRESS: Final = 2
"""A host name may stand for an address of each version of IP."""
OTHER_FILES: Final = 64
"""Open files other than those of connections and backends."""
DESCRIPTOR_TABLE: Final = 32_768
"""Descriptors for which the kernel's table has room from the start: 256 KiB of its memory."""
FILES_HINT: Final = "raise the hard limit: LimitNOFILE= of systemd, or ulimit -Hn"


class OpenFilesError(ScalesocketError):
    """The limit of open files is too low for a server to start."""


def count_start_files(site: Site) -> int:
    """Return how many files a server of one process must be able to open to start."""
    addresses = len(site.server.bind) + (site.server.admin is not None)
    return START_FILES + FILES_OF_ADDRESS * addresses


def check_open_files(needed: int) -> None:
    """Raise OpenFilesError unless so many more files may be open, once the soft limit is raised to the hard one.

    Without this check, a start can fail anywhere, and some libraries then write only a traceback.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        _check_limit("hard", hard, needed)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    _check_limit("soft", soft, SPAWNER_FILES)


def _check_limit(kind: str, limit: int, needed: int) -> None:
    opened: list[int] = []
    try:
        while len(opened) < needed:
            opened.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        least = limit - len(opened) + needed
        hint = "raise it: LimitNOFILE= of systemd, or ulimit -n"
        text = f"the {kind} limit of open files is {limit}, and the server needs at least {least} to start ({hint})"
        raise OpenFilesError(text if error.errno == errno.EMFILE else f"cannot start: {error.strerror}") from error
    finally:
        for fd in opened:
            os.close(fd)


def count_open_files(site: Site) -> int:
    """Return the descriptors that one process needs for `max_connections`."""
    return (site.server.max_connections or 0) + OTHER_FILES


def warn_of_few_files(needed: int) -> None:
    """Warn if the hard limit of open files is too low for a process that may need so many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        log.warning("limit of open files too low", limit=hard, needed=needed, hint=FILES_HINT)


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    grow_descriptor_table(hard)


def grow_descriptor_table(limit: int) -> None:
    """Make the kernel's table of descriptors large now, while the process has one thread.

    With more threads, each doubling of the table waits for an RCU grace period: a stall of 10 to 15 ms.
    """
    highest = DESCRIPTOR_TABLE if limit == resource.RLIM_INFINITY else min(limit, DESCRIPTOR_TABLE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(fcntl.fcntl(lowest_free, fcntl.F_DUPFD_CLOEXEC, highest - 1))
    os.close(lowest_free)
