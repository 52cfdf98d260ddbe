"""Starting a program: the search in PATH, its standard streams, its user and its limits; and the text if it fails."""

import errno
import os
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from typing import Final

from scalesocket.backends.spawner.credentials import Credentials, find_credentials, set_credentials
from scalesocket.backends.spawner.errors import StartError

FOUND_FOR: Final = 1.0
"""Seconds for which the place of a program found in PATH is remembered."""
LIMITS: Final = {
    "memory": resource.RLIMIT_AS,
    "cpu": resource.RLIMIT_CPU,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
}
Stdio = tuple[int, int, int]
"""The child's ends of its standard input, output and error."""


class ProgramFinder:
    """Finds programs in PATH and remembers their places for a second: a search of a long PATH takes 25 us."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str | None, str], str] = {}
        """By name, PATH and folder."""
        self.expires_at = 0.0

    def find(self, name: str, env: dict[str, str], cwd: str) -> str:
        """The path of a program. Raises OSError."""
        if "/" in name:
            return name
        now = time.monotonic()
        if now >= self.expires_at:
            self.found.clear()
            self.expires_at = now + FOUND_FOR
        key = (name, env.get("PATH"), cwd)
        path = self.found.get(key)
        if path is None or not os.access(path, os.X_OK):
            path = self.found[key] = find_program(name, env)
        return path


def find_program(name: str, env: dict[str, str]) -> str:
    """Search the `PATH` of `env` for the first executable file of this name. Raises OSError."""
    paths = [f"{folder}/{name}" if folder else name for folder in os.get_exec_path(env)]
    for path in paths:
        if os.access(path, os.X_OK) and stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return path
    code = errno.EACCES if any(os.access(path, os.F_OK) for path in paths) else errno.ENOENT
    raise OSError(code, os.strerror(code), name)


def start_plain(path: str, argv: list[str], env: dict[str, str], stdio: Stdio) -> int:
    """Start a child with the spawner's user and current folder; return its pid. Popen would take 100 us more."""
    return os.posix_spawn(
        path,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)],
        setpgroup=0,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
    )


def start_restricted(
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    stdio: Stdio,
    user: str | None,
    group: str | None,
    limits: dict[str, int],
    join: Callable[[], None] | None,
) -> int:
    """Start a child as another user or with limits, which `posix_spawn` cannot; return its pid. Raises StartError.

    `join`: called in the child, to enter its control group.
    """
    credentials = uid, gid, groups = find_credentials(user, group)
    if join is not None:  # as the spawner's user, which Popen would change first
        uid = gid = groups = None
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            process_group=0,
            close_fds=False,  # all of the spawner's close at exec; closing a thousand pidfds in the child costs 50 us more
            user=uid,
            group=gid,
            extra_groups=groups,
            preexec_fn=make_limiter(limits, join, credentials) if limits else None,
        )
    except subprocess.SubprocessError as error:
        raise StartError("its limits could not be set") from error
    child.returncode = 0  # Popen must never reap it: `Children` does, once the gateway has released it
    return child.pid


def make_limiter(limits: dict[str, int], join: Callable[[], None] | None, credentials: Credentials) -> Callable[[], None]:
    """Make a `preexec_fn` that sets `limits`, after `join` and `credentials` if there is one.

    It needs a real fork, which is cheap in so small a process.

    Raises StartError for a limit above the hard limit.
    """
    for name, limit in limits.items():
        hard = resource.getrlimit(LIMITS[name])[1]
        if hard != resource.RLIM_INFINITY and limit > hard:
            raise StartError(f"limits.{name}: {limit} is above the hard limit of {hard}")

    def set_limits() -> None:
        if join is not None:
            join()
            set_credentials(*credentials)
        for name, limit in limits.items():
            resource.setrlimit(LIMITS[name], (limit, limit))

    return set_limits


def describe_error(error: OSError, cwd: str) -> str:
    """The text for the gateway, which puts the command's name in front of it."""
    if error.errno == errno.E2BIG:
        return "its arguments and environment are too long"
    if error.errno == errno.ENOEXEC:
        return "it is neither a program nor a script with a first line like #!/bin/sh"
    program = str(error.filename or "")
    if error.errno == errno.ENOENT and "/" in program and program != cwd and os.path.exists(os.path.join(cwd, program)):  # noqa: PTH110, PTH118
        return "its interpreter, or the loader it was linked for, is not there"
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"its folder {cwd!r}: {text}" if error.filename == cwd and not os.access(cwd, os.X_OK) else text
