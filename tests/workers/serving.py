"""Servers of several workers, started from the command line, and their processes."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from scalesocket.backends.spawner.processes import read_stat
from tests.cli.serving import DEADLINE, Serving, serving

PROGRAMS: Final = Path(__file__).parents[1] / "programs"
ROOMS: Final = 12
"""Rooms of a test: with three workers, the chance that one of them has none is 2 %, and it is asked for more then."""
LIMITED: Final = (
    "import sys, scalesocket.workers.slot as slot; slot.ANSWER_TIMEOUT = {limit}; "
    "from scalesocket.cli.main import main; main(sys.argv[4:])"
)
"""A program that serves with another limit for pings. `serving` appends `python -m scalesocket` and the words."""


class Site:
    """A running server of several workers."""

    def __init__(self, server: Serving, count: int, connections: ExitStack) -> None:
        self.server = server
        self.count = count
        self._connections = connections
        self._begin = len(server.output)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self.server.process.pid

    @property
    def output(self) -> str:
        """What the server has written since this object was made."""
        return self.server.output[self._begin :]

    @property
    def workers(self) -> dict[int, int]:
        """The pids of the workers by index."""
        found = {}
        for pid in children(self.pid):
            with suppress(OSError, ValueError, IndexError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if any(word.endswith(b"/workers/__main__.py") for word in words):
                    found[int(words[-2])] = pid
        return found

    @property
    def family(self) -> set[int]:
        """The pids of all processes that the supervisor has started, directly or not."""
        return descendants(self.pid)

    def join(self, room: str) -> "Player":
        """Join a room of the app `chat`."""
        url = f"ws://127.0.0.1:{self.server.port}/chat/{room}"
        return Player(self._connections.enter_context(connect(url, open_timeout=DEADLINE)))

    def owner_of(self, backend: int) -> int:
        """The index of the worker that a backend belongs to."""
        spawner = parent_of(backend)
        worker = parent_of(spawner)
        return next(index for index, pid in self.workers.items() if pid == worker)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; `what` names it."""
        self.server.wait(holds, what)

    def wait_logged(self, words: str) -> None:
        """Wait until `output` contains these words."""
        self.wait(lambda: words in self.output, repr(words))

    def wait_replaced(self, index: int, pid: int) -> None:
        """Wait until the worker has another process, which is ready."""
        self.wait(lambda: self.workers.get(index, pid) != pid, f"another process of worker {index}")


class Player:
    """A client of a room whose program is `alone.py`: the room's first message is the pid of the program."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def read_pid(self) -> int:
        """The pid that the program has printed at its start."""
        return int(self.read())

    def read(self) -> str:
        return str(self.connection.recv(timeout=DEADLINE))

    def echo(self, text: str = "hello") -> None:
        """Send a text, and wait until it comes back."""
        self.connection.send(text)
        assert self.read() == text

    def wait_closed(self) -> int:
        """Wait until the connection is closed; return the close code."""
        try:
            while True:
                self.read()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


@contextmanager
def serving_workers(
    folder: Path,
    *,
    count: int = 3,
    server: str = 'bind = "127.0.0.1:0"',
    app: str = "",
    limit: float | None = None,
    wrapper: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Iterator[Site]:
    """Serve an app `chat` whose program is `alone.py`. After the test nothing of it may be left.

    `server` and `app`: more lines of their tables. `limit`: seconds in which a worker must answer a ping. `wrapper`: a command
    that executes its arguments.
    """
    file = folder / "site.toml"
    command = [sys.executable, "-IS", str(PROGRAMS / "alone.py"), str(folder / "lock")]
    file.write_text(
        f'[server]\nworkers = {count}\ncontrol = "off"\n{server}\n'
        f"[apps.chat]\ncommand = {command}\nhistory = {{ size = 1 }}\n{app}\n"
    )
    if limit is not None:
        wrapper = (sys.executable, "-c", LIMITED.format(limit=limit))
    with serving("serve", str(file), wrapper=wrapper, environment=environment) as started, ExitStack() as connections:
        site = Site(started, count, connections)
        assert sorted(site.workers) == list(range(count))
        family = site.family
        yield site
        family |= site.family
        if started.process.poll() is None:
            started.process.terminate()
        started.wait_ended()
        wait_none(family)


def join_all(site: Site) -> dict[int, list[tuple[Player, int]]]:
    """Open rooms until each worker has at least two; return clients and pids of programs by worker."""
    found: dict[int, list[tuple[Player, int]]] = {index: [] for index in range(site.count)}
    for number in range(100):
        player = site.join(f"room{number}")
        pid = player.read_pid()
        found[site.owner_of(pid)].append((player, pid))
        if number + 1 >= ROOMS and all(len(rooms) >= 2 for rooms in found.values()):
            return found
    raise AssertionError(f"rooms are not spread: { {index: len(rooms) for index, rooms in found.items()} }")


def echo_all(rooms: list[tuple[Player, int]]) -> None:
    for player, _ in rooms:
        player.echo()


def wait_none(pids: set[int]) -> None:
    """Wait until none of these processes is left."""
    deadline = time.monotonic() + DEADLINE
    while left := {pid for pid in pids if is_running(pid)}:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return read_stat(pid)[0] not in "ZX"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return read_stat(pid)[1].parent


def children(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(OSError):  # it has ended
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found |= set(map(int, path.read_text().split()))
    return found


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    new = children(pid)
    while new:
        found |= new
        new = {child for parent in new for child in children(parent)} - found
    return found


def kill(*pids: int, number: int) -> None:
    for pid in pids:
        os.kill(pid, number)
