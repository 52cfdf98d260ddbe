"""Engines for tests: real redis-server processes on free ports, and directories that use them."""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis

from scalesocket.cluster.directory import Directory
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.records import Session
from scalesocket.config.model import Cluster
from tests.ports import free_port

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
LEASE = 0.5
"""Seconds of a lease in tests, the shortest that is allowed."""
SECRET = "a secret of the tests"
T = TypeVar("T")


class EngineProcess:
    """A redis-server that can be killed and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        if SERVER is None:
            pytest.skip("no redis-server or valkey-server on this machine (Debian: apt-get install redis-server)")
        self.folder = folder
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, decode_responses=True)

    def start(self, *more: str, is_kept: bool = False) -> None:
        """Start it, and wait until it answers. `is_kept`: with an append-only file, from which it reads what it had."""
        assert SERVER is not None
        options = ["--appendonly", "yes", "--appendfsync", "always"] if is_kept else ["--appendonly", "no"]
        with (self.folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    SERVER,
                    "--port",
                    str(self.port),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--dir",
                    str(self.folder),
                    *options,
                    *more,
                ],
                stdout=log,
                stderr=log,
            )
        for _ in range(2000):
            try:
                if self.client.ping():
                    return
            except redis.ConnectionError:  # also while it reads its file
                time.sleep(0.01)
        raise AssertionError((self.folder / "engine.log").read_text())

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop its process, which keeps its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let its process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, and close the connection of the tests."""
        self.kill()
        self.client.close()

    def keys(self, name: str) -> set[str]:
        """The keys of a cluster, without its prefix."""
        prefix = f"{{{name}}}:"
        return {key.removeprefix(prefix) for key in self.client.scan_iter(f"{prefix}*")}


class ClusterOfTests:
    """The directories of a cluster with a name of its own."""

    def __init__(self, engine: EngineProcess, name: str) -> None:
        self.engine = engine
        self.name = name

    def settings(self, **changes: Any) -> Cluster:
        given = {"engine": self.engine.url, "name": self.name, "listen": "127.0.0.1:0", "secret": SECRET, "lease": LEASE}
        return Cluster.model_validate(given | changes)

    @asynccontextmanager
    async def directory(self, node: str, **changes: Any) -> AsyncIterator[Directory]:
        """A directory without a session."""
        directory = Directory(self.settings(**changes), node=node, advertise=f"{node}.example:9100", version="1.0")
        try:
            yield directory
        finally:
            await directory.close()

    @asynccontextmanager
    async def node(self, node: str, **changes: Any) -> AsyncIterator[Directory]:
        """A directory with a session, and without a grace period."""
        async with self.directory(node, **changes) as directory:
            await open_session(directory)
            self.end_grace()
            yield directory

    def read(self, kind: str) -> dict[str, str]:
        """A hash of the directory."""
        found = self.engine.client.hgetall(f"{{{self.name}}}:{kind}")
        return {str(key): str(value) for key, value in found.items()}

    def write(self, kind: str, **fields: object) -> None:
        """Change a hash of the directory."""
        self.engine.client.hset(f"{{{self.name}}}:{kind}", mapping={key: str(value) for key, value in fields.items()})

    def end_grace(self) -> None:
        end_grace(self.engine, self.name)

    def end_lease(self, node: str) -> None:
        self.write(f"node:{node}", until=0)

    def set_clock_back(self) -> None:
        """Do what a clock of the engine that is set back by an hour does: the last fence and time are in the future."""
        hour = 3600 * 1_000_000
        self.engine.client.incrby(f"{{{self.name}}}:fence", hour)
        self.engine.client.hincrby(f"{{{self.name}}}:engine", "seen", hour)

    def set_clock_forward(self) -> None:
        """Do what a clock of the engine that is set forward by an hour does."""
        self.engine.client.hincrby(f"{{{self.name}}}:engine", "seen", -3600 * 1_000_000)


def end_grace(engine: EngineProcess, name: str, *, database: int = 0) -> None:
    """End the grace period, for tests of other things."""
    with redis.Redis(port=engine.port, db=database) as client:
        client.hset(f"{{{name}}}:engine", "grace", "0")


async def open_session(directory: Directory) -> Session:
    session = await directory.open_session()
    assert isinstance(session, Session)
    return session


async def until(ask: Callable[[], Awaitable[T]], is_it: Callable[[T], bool], *, within: float = 20.0) -> T:
    """Ask again and again, faster than the clock of the directory needs, until the answer is the one."""
    answer: object = "no answer"
    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    answer = await ask()
                    if is_it(answer):
                        return answer
                except EngineUnavailableError as error:
                    answer = error
                await asyncio.sleep(LEASE / 20)  # faster than the clock of the directory needs
    except TimeoutError:
        raise AssertionError(f"within {within} s the last answer was {answer!r}") from None
