"""Rooms that record the output of their backend, and what is left of processes and descriptors."""

import asyncio
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scalesocket.backends.backend import Backend, Exit
from scalesocket.backends.open import open_backend
from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import App

PROGRAMS = Path(__file__).parent.parent / "programs"
DEADLINE = 10.0


class RecordingRoom:
    """A receiver that records output, and its backend."""

    backend: Backend

    def __init__(self) -> None:
        self.output = bytearray()
        self.is_blocked = False
        self.pauses = 0
        self._changed = asyncio.Event()

    def backend_output(self, chunk: bytes) -> None:
        assert chunk
        self.output += chunk
        self._changed.set()

    def backend_blocked(self) -> None:
        assert not self.is_blocked
        self.is_blocked = True
        self.pauses += 1
        self._changed.set()

    def backend_unblocked(self) -> None:
        assert self.is_blocked
        self.is_blocked = False
        self._changed.set()

    async def until(self, holds: Callable[[], bool], *, within: float = DEADLINE) -> None:
        """Wait until output, or a block, makes this true."""
        try:
            async with asyncio.timeout(within):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"received {len(self.output)} bytes, the last {bytes(self.output[-200:])!r}") from None

    async def wait_output(self, text: bytes) -> None:
        await self.until(lambda: text in self.output)

    async def wait_line(self) -> str:
        await self.until(lambda: b"\n" in self.output)
        return bytes(self.output).split(b"\n", 1)[0].decode()

    async def end(self) -> Exit:
        """Wait for the exit and the rest of the output as a room does, then stop the backend."""
        async with asyncio.timeout(DEADLINE):
            outcome = await self.backend.wait_exit()
            await self.backend.wait_drained()
            assert await self.backend.stop(signal=15, timeout=1.0) is not None
        return outcome

    async def stop(self, *, signal: int = 15, timeout: float = 5.0) -> Exit:
        async with asyncio.timeout(DEADLINE):
            return await self.backend.stop(signal=signal, timeout=timeout)


class OpenRoom:
    """Opens the room of an app with these keys."""

    def __init__(self, spawner: SpawnerClient, ports: Ports) -> None:
        self.spawner = spawner
        self.ports = ports

    async def __call__(self, *command: str, env: dict[str, str] | None = None, **keys: object) -> RecordingRoom:
        room = RecordingRoom()
        if command:
            keys["command"] = command
        app = App(name="app", **keys)  # type: ignore[arg-type]
        room.backend = await open_backend(
            app,
            {"PATH": os.environ["PATH"]} if env is None else env,
            room="lobby",
            receiver=room,
            spawner=self.spawner,
            ports=self.ports,
        )
        return room


def program(name: str, *words: object) -> tuple[str, ...]:
    """The command of a program under tests/programs."""
    return sys.executable, "-I", "-S", "-u", str(PROGRAMS / f"{name}.py"), *map(str, words)


def open_fds() -> Counter[str]:
    """Count the open descriptors of each kind, without /dev/null, which libuv opens with a loop's first stream."""
    kinds: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        try:
            kinds[str(path.readlink()).partition(":[")[0]] += 1
        except FileNotFoundError:  # the descriptor of the listing
            continue
    del kinds["/dev/null"]
    return kinds


@contextmanager
def open_file_limit(soft: int) -> Iterator[None]:
    old, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (old, hard))


adopted: set[int] = set()
"""Children of this process from before the test: orphans of other tests, such as a browser's, as it is a child subreaper."""


def all_children() -> list[int]:
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def children() -> list[int]:
    """The children of this process that the test started."""
    return [pid for pid in all_children() if pid not in adopted]


def exists(pid: int) -> bool:
    """Whether a process exists, also as a zombie."""
    return Path(f"/proc/{pid}").exists()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(holds: Callable[[], bool], *, within: float = DEADLINE) -> None:
    """Poll until it is true: for what has no event, such as the end of another process's child."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 there is no event of it
            await asyncio.sleep(0.01)


def parse_state(line: str) -> dict[str, object]:
    return dict(json.loads(line))
