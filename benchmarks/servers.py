"""Starts and stops servers, each on a free port."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from benchmarks.generator import BenchmarkError
from benchmarks.peers import ROOT, Peer, Place, Setup, find_free_port, is_ours

START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 15.0
QUIET_TIMEOUT: Final = 10.0
QUOTED_LINES: Final = 3
"""Lines of its log that are quoted if a server does not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One running server."""

    peer: Peer
    setup: Setup
    place: Place
    pid: int
    helpers: int
    """Processes at the level of backends that exist before any room, such as our guardian."""

    @property
    def url(self) -> str:
        """URL of its rooms; `{}` stands for the number of a room."""
        path = "/bench/r{}" if is_ours(self.peer.name) else "/r{}"
        return f"{'wss' if self.setup.is_tls else 'ws'}://127.0.0.1:{self.place.port}{path}"

    def wait_quiet(self) -> None:
        """Wait until the backends of the last load have exited, for 10 s at most: some servers keep a few."""
        deadline = time.monotonic() + QUIET_TIMEOUT
        while count_backends(self.pid, self.peer.levels) > self.helpers and time.monotonic() < deadline:
            time.sleep(0.02)


class Servers:
    """Context manager for running servers, one per peer and setup, which start on first use."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[tuple[str, Setup], Server] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def get(self, peer: Peer, setup: Setup) -> Server:
        """Return the running server. Raises BenchmarkError if it does not start."""
        key = (peer.name, setup)
        if key not in self._running:
            self._running[key] = self._stack.enter_context(open_server(peer, setup))
        return self._running[key]


def count_backends(pid: int, levels: int) -> int:
    """Count the processes `levels` generations below `pid`."""
    generation = [pid]
    for _ in range(levels):
        generation = [child for parent in generation for child in list_children(parent)]
    return len(generation)


def list_children(pid: int) -> list[int]:
    """Return the pids of all children of a process, of all its threads."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has just ended
            children += map(int, task.read_text().split())
    return children


@contextmanager
def open_server(peer: Peer, setup: Setup) -> Iterator[Server]:
    """Run a server until the block ends; it accepts connections when the block begins.

    Raises BenchmarkError, with the end of its log, if it does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        place = Place(port=find_free_port(), folder=folder)
        if setup.is_tls:
            make_certificate(place)
        command = peer.make_command(setup, place)
        if command is None:
            raise BenchmarkError(f"{peer.title} cannot run {setup}")
        log = stack.enter_context((folder / "log").open("w+"))
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        stack.callback(stop, process)
        deadline = time.monotonic() + START_TIMEOUT
        while not is_listening(place.port) or peer.ready not in (folder / "log").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise BenchmarkError(f"{peer.title} did not start: {' '.join(log.read().splitlines()[-QUOTED_LINES:])}")
            time.sleep(0.02)
        helpers = count_backends(process.pid, peer.levels)
        yield Server(peer=peer, setup=setup, place=place, pid=process.pid, helpers=helpers)


def server_environment() -> dict[str, str]:
    """Return the environment of every server: ours, with this tree on Python's path, so that nothing has to be installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate a server, then kill what is left of its process group."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def make_certificate(place: Place) -> None:
    """Make a certificate for one day with the openssl command. The load generator does not verify it."""
    if shutil.which("openssl") is None:
        raise BenchmarkError("no openssl command found to make a certificate with")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", str(place.key), "-out", str(place.certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-nodes", "-days", "1", "-subj", "/CN=localhost", *files],
        check=True,
        capture_output=True,
    )
