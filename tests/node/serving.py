"""Nodes of a cluster, started from the command line, with an engine of their own."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.cli.serving import DEADLINE, Serving, serving
from tests.cluster.engines import SECRET, EngineProcess, end_grace
from tests.ports import free_port
from tests.workers.serving import descendants, wait_none

LEASE: Final = 5.0
"""Longer than a busy machine keeps a node from renewing it."""
SHORT: Final = 1.0
"""The lease of nodes in tests that wait for its end."""
SHORT_LEASE: Final = f'lease = "{SHORT:g}s"'
ECHO: Final = (
    "import os, sys\n"
    "print('opened', os.environ['SCALESOCKET_FENCE'], os.environ['NODE'], flush=True)\n"
    "for line in sys.stdin:\n"
    "    if line == 'die\\n': sys.exit(1)\n"
    "    print(line, end='', flush=True)\n"
)
"""A program that says its fence and its node first, then sends every line to everybody."""


class Node:
    """A running node."""

    def __init__(self, name: str, server: Serving, file: Path) -> None:
        self.name = name
        self.server = server
        self.file = file

    def kill(self) -> None:
        """Kill the gateway, as a crash does. Its spawner ends the backends."""
        family = {self.server.process.pid} | descendants(self.server.process.pid)
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait(DEADLINE)
        wait_none(family)


class Client:
    """A client in a room of the app `chat`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def read(self) -> str:
        return str(self.connection.recv(timeout=DEADLINE))

    def read_opened(self) -> tuple[int, str]:
        """The fence and the node of the room, which its program says first."""
        word, fence, node = self.read().split()
        assert word == "opened"
        return int(fence), node

    def send(self, text: str) -> None:
        self.connection.send(text)

    def wait_closed(self) -> int:
        """Wait until the connection is closed; return the close code."""
        try:
            while True:
                self.read()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


class Cluster:
    """An engine, and the nodes that were started."""

    def __init__(self, folder: Path, engine: EngineProcess, stack: ExitStack) -> None:
        self.folder = folder
        self.engine = engine
        self._stack = stack

    def start(self, name: str, *, wrapper: Sequence[str] = (), **settings: str) -> Node:
        """Start a node (`write`), and end the grace period of the cluster. `wrapper`: a command that executes its arguments."""
        file = self.write(name, **settings)
        node = Node(name, self._stack.enter_context(serving("serve", str(file), wrapper=wrapper)), file)
        end_grace(self.engine, "test")
        return node

    def write(
        self,
        name: str,
        *,
        more: str = "",
        server: str = "",
        app: str = "",
        secret: str = SECRET,
        node: str = "",
        host: str = "127.0.0.1",
    ) -> Path:
        """Write the file of a node. `more`, `server` and `app`: lines of tables; `node`: its name, if it is not that of its file.

        `host`: where it listens for other nodes; `PORT` in `more` stands for the port.
        """
        port = free_port()
        lease = "" if "lease" in more else f'lease = "{LEASE:g}s"'
        file = self.folder / f"{name}.toml"
        command = [sys.executable, "-ISc", ECHO]
        file.write_text(
            f'[server]\nbind = "127.0.0.1:0"\ncontrol = "{self.folder}/{name}.sock"\n{server}\n'
            f'[cluster]\nengine = "{self.engine.url}"\nname = "test"\nnode = "{node or name}"\n'
            f'listen = "{host}:{port}"\nsecret = "{secret}"\n{lease}\n{more.replace("PORT", str(port))}\n'
            f'[apps.chat]\ncommand = {command!r}\nenv = {{ NODE = "{name}" }}\nhistory = {{ size = 1 }}\n{app}\n'
        )
        return file

    def join(self, node: Node, room: str, *, app: str = "chat", **options: Any) -> Client:
        """Join a room through a node."""
        url = f"ws://127.0.0.1:{node.server.port}/{app}/{room}"
        connection = self._stack.enter_context(connect(url, open_timeout=DEADLINE + 5, close_timeout=1, **options))
        return Client(connection)


@contextmanager
def open_cluster(folder: Path) -> Iterator[Cluster]:
    """Run an engine, and the nodes that the test starts, until the block ends."""
    engine = EngineProcess(folder)
    engine.start()
    try:
        with ExitStack() as stack:
            yield Cluster(folder, engine, stack)
    finally:
        engine.close()
