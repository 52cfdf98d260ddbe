"""The death of a spawner, and requests for it."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from scalesocket.backends import spawner_client
from scalesocket.backends.child import SpawnRequest
from scalesocket.backends.spawner_client import SpawnerClient
from tests.backends.recording import (
    until,
)

CAT = SpawnRequest(argv=("cat",), env={"PATH": os.environ["PATH"]}, cwd="/")


async def kill_spawner(spawner: SpawnerClient) -> None:
    """Kill the spawner with SIGKILL, and wait for the next one."""
    old = make_old(spawner)
    os.kill(old, signal.SIGKILL)
    await until(lambda: spawner.pid not in {old, None})


def make_old(spawner: SpawnerClient) -> int:
    """Make the spawner old enough to be replaced at once when it dies; return its pid."""
    assert spawner._process is not None
    spawner._process.started_at -= spawner_client.SHORT_LIFE
    return spawner._process.pid


def list_running(marker: str) -> list[int]:
    """The processes with this argument in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
