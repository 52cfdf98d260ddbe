"""A cluster of real processes: an engine and nodes that are started from the command line, and may be killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from scalesocket.backends.spawner.processes import read_stat
from tests.cluster.acts import Acts
from tests.cluster.engines import EngineProcess, end_grace
from tests.cluster.namespaces import Machines
from tests.playing import PROGRAMS
from tests.ports import free_port
from tests.workers.serving import children, descendants, is_running

ROOT: Final = Path(__file__).parents[2]
NAME: Final = "chaos"
SECRET: Final = "a secret of all the nodes"
START: Final = 60.0
"""Seconds for a node to start, or to end."""
UNGUARDED: Final = (
    "import sys; from scalesocket.backends.spawner_client import SpawnerClient; "
    "SpawnerClient.set_deadline = lambda self, *deadline: None; "
    "from scalesocket.cli.main import main; main(sys.argv[1:])"
)
"""A server whose spawner never gets a deadline."""
SITE: Final = """
[server]
bind = "{clients}:{port}"
control = "{control}"
drain_timeout = "{drain}"
metrics = true

[cluster]
engine = "{engine}"
name = "{name}"
node = "{node}"
listen = "{peers}:{peer_port}"
secret = "{secret}"
lease = "{lease:g}s"
on_engine_loss = "{loss}"

[apps.acts]
command = {command}
env = {{ NODE = "{node}" }}
join_message = "join #ID"
leave_message = "leave #ID"
stop_timeout = "1s"

[apps.alone]
command = {alone}
history = {{ size = 1 }}
"""


class Node:
    """One node of the cluster, as the process that runs now."""

    def __init__(self, name: str, file: Path, host: str, port: int, *, wrapper: Sequence[str], is_guarded: bool) -> None:
        """`wrapper`: a command that executes its arguments."""
        self.name = name
        self.file = file
        self.host = host
        self.port = port
        main = ("-m", "scalesocket") if is_guarded else ("-c", UNGUARDED)
        self._command = [*wrapper, sys.executable, *main, "serve", str(file)]
        self._process: subprocess.Popen[bytes] | None = None
        self.log = file.with_suffix(".log")

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"{self.host}:{self.port}"

    @property
    def gateway(self) -> int:
        """The pid of the gateway."""
        assert self._process is not None
        return self._process.pid

    @property
    def spawner(self) -> int:
        """The pid of the spawner."""
        (spawner,) = (pid for pid in children(self.gateway) if read_stat(pid)[1].parent == self.gateway)
        return spawner

    @property
    def family(self) -> set[int]:
        """The pids of all of its processes."""
        return {self.gateway} | descendants(self.gateway)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; it does not serve yet."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.file.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def send_signal(self, number: signal.Signals, *pids: int) -> None:
        """Send a signal to processes of it, by default to the gateway."""
        for pid in pids or (self.gateway,):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def wait_ended(self) -> int:
        """Wait until the gateway has ended; return its exit code."""
        assert self._process is not None
        await until(lambda: not self.is_alive, f"node {self.name} ends", within=START, about=self.read_log)
        return self._process.returncode

    def read_log(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    async def close(self) -> None:
        """Kill all of it, as it is now."""
        if self._process is None or self._process.poll() is not None:
            return
        family = self.family
        self.send_signal(signal.SIGKILL, *family)
        self._process.wait()
        await wait_none(family, within=START)


class RunningCluster:
    """An engine and its nodes."""

    def __init__(
        self, folder: Path, lease: float, engine: EngineProcess, nodes: Sequence[Node], machines: Machines | None
    ) -> None:
        self.folder = folder
        self.lease = lease
        self.engine = engine
        self.nodes = nodes
        self.machines = machines
        self.acts = Acts(folder / "acts.log")

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    async def start(self, *nodes: Node) -> None:
        """Start nodes, and wait until each serves clients."""
        for node in nodes:
            node.start()
        for node in nodes:
            await self.wait_serving(node)

    async def wait_serving(self, node: Node) -> None:
        deadline = time.monotonic() + START
        while True:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    _, writer = await asyncio.open_connection(node.host, node.port)
                    writer.close()
                    return
            assert node.is_alive, f"node {node.name} ended:\n{node.read_log()}"
            assert time.monotonic() < deadline, f"node {node.name} does not listen:\n{node.read_log()}"
            await asyncio.sleep(0.02)

    def logs(self) -> str:
        """The ends of the logs of all nodes."""
        return "\n".join(f"--- {node.name}\n{node.read_log()}" for node in self.nodes)

    def owner_of(self, room: str) -> Node:
        """The node whose backend of a room acted last."""
        act = self.acts.last_owner(room)
        assert act is not None, f"{room} never had a backend"
        return self.node(act.node)

    async def end_grace(self) -> None:
        """End the grace period after the start, for tests of other things."""
        sessions = {f"node:{node.name}" for node in self.nodes}
        await until(lambda: sessions <= self.engine.keys(NAME), "all nodes have sessions", within=START, about=self.logs)
        end_grace(self.engine, NAME)

    async def mend(self) -> None:
        """Restore links, let everything go on, and start what has ended."""
        if self.machines is not None:
            self.machines.restore()
        if not self.engine.is_running:
            self.engine.start(*self.engine_options)
        self.engine.resume()
        for node in self.nodes:
            if node.is_alive:
                node.send_signal(signal.SIGCONT, *node.family)
        await self.start(*(node for node in self.nodes if not node.is_alive))

    @property
    def engine_options(self) -> Sequence[str]:
        """So that nodes on other machines reach it, too."""
        if self.machines is None:
            return ()
        return ("--bind", "127.0.0.1", self.machines.address(0, "engine"), "--protected-mode", "no")


async def until(
    holds: Callable[[], bool], what: str, *, within: float, about: Callable[[], str] = str, period: float = 0.01
) -> float:
    """Wait until a condition holds; return the seconds that it took. `about` tells more if it does not."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() < started + within, f"not within {within:g} s: {what}\n{about()}"
        await asyncio.sleep(period)
    return time.monotonic() - started


async def wait_none(pids: Iterable[int], within: float) -> float:
    """Wait until none of these processes is left; return the seconds that it took."""
    pids = set(pids)
    return await until(
        lambda: not any(map(is_running, pids)),
        "all processes have ended",
        within=within,
        about=lambda: f"left: { {pid for pid in pids if is_running(pid)} }",
    )


@asynccontextmanager
async def running_cluster(
    folder: Path,
    *,
    count: int = 3,
    lease: float = 1.0,
    machines: Machines | None = None,
    is_guarded: bool = True,
    drain: str = "1s",
    loss: str = "stop",
) -> AsyncIterator[RunningCluster]:
    """Run an engine and nodes `a1`, `a2`, …, until the block ends. Then nothing of it may be left.

    `is_guarded`: without it, no backend is killed at a deadline. `loss`: their `on_engine_loss`.
    """
    engine = EngineProcess(folder)
    command = [sys.executable, "-IS", str(PROGRAMS / "acts.py"), str(folder / "acts.log")]
    alone = [sys.executable, "-IS", str(PROGRAMS / "alone.py"), str(folder / "lock")]
    nodes = []
    for number in range(1, count + 1):
        name = f"a{number}"
        file = folder / f"{name}.toml"
        engine_host, peers, clients = (
            ("127.0.0.1", "127.0.0.1", "127.0.0.1")
            if machines is None
            else (machines.address(0, "engine"), machines.address(number, "peers"), machines.address(number, "clients"))
        )
        port = free_port()
        file.write_text(
            SITE.format(
                clients=clients,
                port=port,
                control=folder / f"{name}.sock",
                drain=drain,
                engine=f"redis://{engine_host}:{engine.port}/0",
                name=NAME,
                node=name,
                peers=peers,
                peer_port=free_port(),
                secret=SECRET,
                lease=lease,
                loss=loss,
                command=command,
                alone=alone,
            )
        )
        wrapper = () if machines is None else machines.enter(number)
        nodes.append(Node(name, file, clients, port, wrapper=wrapper, is_guarded=is_guarded))
    cluster = RunningCluster(folder, lease, engine, nodes, machines)
    async with AsyncExitStack() as stack:
        engine.start(*cluster.engine_options)
        stack.callback(engine.close)
        for node in nodes:
            stack.push_async_callback(node.close)
        await cluster.start(*nodes)
        yield cluster
