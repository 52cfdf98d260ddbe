"""What a cluster costs: `python -m benchmarks.cluster` prints the table of docs/cluster.md. Needs redis-server.

Three servers with one site: one without `[cluster]`, and two nodes. All rooms are on the first node: "local" clients connect to
it, "remote" ones to the second node. The servers take turns in short rounds, each next to the one that it is compared with. The
medians of the ratios count, of throughput and of the CPU time of the gateways. Two processes of one program differ by some per
cent, whatever they do, so all servers are started several times.
"""

import argparse
import asyncio
import json
import signal
import statistics
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from websockets.asyncio.client import connect

from benchmarks.generator import run_drive
from benchmarks.pairs import estimate_ratio, wait_idle
from scalesocket.cluster.directory import Directory
from scalesocket.cluster.records import Owned, Won
from scalesocket.config.model import Cluster
from tests.cluster.engines import EngineProcess, free_port
from tests.cluster.running import Node, end_grace, until

NAME: Final = "bench"
SECRET: Final = "a secret of the benchmark"
SITE: Final = """
[server]
bind = "127.0.0.1:{port}"
control = "off"
{cluster}
[apps.bench]
command = ["cat"]
idle_timeout = "10m"
"""
CLUSTER: Final = """
[cluster]
engine = "{engine}"
name = "bench"
node = "{node}"
listen = "127.0.0.1:{peers}"
secret = "a secret of the benchmark"
"""
WINDOW: Final = ("--seconds", "0.4", "--warm", "0.1", "--size", "100")
ROOMS: Final = 50
CLIENTS: Final = 2000


class Load(NamedTuple):
    """One load."""

    title: str
    options: tuple[str, ...]


LOADS: Final = (
    Load("echo, 1 client, 1 in flight (µs)", ("--senders", "1", "--in-flight", "1", "--first-echo")),
    Load(
        "echo, 50 rooms, 8 in flight (messages/s)", ("--rooms", str(ROOMS), "--senders", "1", "--in-flight", "8", "--first-echo")
    ),
    Load("broadcast to 100, 1 in flight (messages/s)", ("--clients", "100", "--senders", "1", "--in-flight", "1")),
    Load("broadcast to 100, 16 in flight (messages/s)", ("--clients", "100", "--senders", "1", "--in-flight", "16")),
    Load("handshakes, 64 at a time (1/s)", ("--clients", str(CLIENTS), "--concurrency", "64", "--sources", "8")),
)


class Sample(NamedTuple):
    """One round."""

    figure: float
    """Microseconds, messages received a second, or handshakes a second."""
    cpu: float
    """Microseconds of the gateways for each message or handshake, up to the end of its connection."""


Figures = dict[str, list[Sample]]


def measure(node: Node, gateways: Sequence[int], load: Load) -> Sample:
    """Run a load once. `gateways`: the pids of those that its messages pass."""
    window = () if "handshakes" in load.title else WINDOW
    before = wait_idle(gateways)
    drive = run_drive(f"ws://{node.address}/bench/r{{}}", (*window, *load.options))
    used = 1e6 * (wait_idle(gateways) - before)
    if drive.traffic is None:
        return Sample(drive.arrival.clients / drive.arrival.seconds, used / drive.arrival.clients)
    traffic = drive.traffic
    assert not traffic.lost + traffic.reordered + traffic.duplicated
    figure = traffic.latency_us.p50 if "µs" in load.title else traffic.received / traffic.seconds
    return Sample(figure, used / traffic.expected_in_all)


async def open_rooms(node: Node) -> None:
    """Open the rooms of all loads, on this node if it is one of a cluster."""
    for number in range(ROOMS):
        async with connect(f"ws://{node.address}/bench/r{number}", proxy=None) as client:
            await client.send("hello")
            await client.recv()


async def measure_claims(engine: EngineProcess, seconds: float, in_flight: int) -> float:
    """Claim and release rooms as one node does; return claims a second."""
    settings = Cluster.model_validate({"engine": engine.url, "name": NAME, "listen": "127.0.0.1:0", "secret": SECRET})
    directory = Directory(settings, node="claimer", advertise="127.0.0.1:1", version="")
    claims = 0

    async def claim(number: int) -> None:
        nonlocal claims
        while time.monotonic() < end:
            won = await directory.claim("claims", f"c{number}")
            assert isinstance(won, Won), won
            directory.release("claims", f"c{number}", won.fence)
            claims += 1

    try:
        await directory.open_session()
        end = time.monotonic() + seconds
        await asyncio.gather(*map(claim, range(in_flight)))
        await asyncio.sleep(0.2)
        assert not isinstance(await directory.find("claims", "c0"), Owned)
        await directory.close_session()
    finally:
        await directory.close()
    return claims / seconds


async def measure_lobby(first: Node, second: Node, repeats: int) -> list[float]:
    """Open rooms on one node; return the seconds until each is in the list of rooms of the other."""
    found = []
    for number in range(repeats):
        async with connect(f"ws://{first.address}/bench/lobby{number}", proxy=None):
            started = time.monotonic()
            while f"lobby{number}" not in await asyncio.to_thread(read_rooms, second):
                await asyncio.sleep(0.01)
                assert time.monotonic() < started + 10
            found.append(time.monotonic() - started)
    return found


def read_rooms(node: Node) -> str:
    with urllib.request.urlopen(f"http://{node.address}/bench/api/rooms/", timeout=2) as answer:
        return json.dumps(json.load(answer))


@asynccontextmanager
async def running(folder: Path, engine: EngineProcess) -> AsyncIterator[Sequence[Node]]:
    """Start the three servers, with all rooms on the first node."""
    nodes = []
    for node in ("without", "local", "remote"):
        port, file = free_port(), folder / f"{node}.toml"
        cluster = "" if node == "without" else CLUSTER.format(engine=engine.url, node=node, peers=free_port())
        file.write_text(SITE.format(port=port, cluster=cluster))
        nodes.append(Node(node, file, "127.0.0.1", port, wrapper=(), is_guarded=True))
    try:
        for server in nodes:
            server.log.unlink(missing_ok=True)
            server.start()
        for server in nodes:
            await until(lambda at=server: "/health" in at.read_log(), "it serves", within=20, about=server.read_log)
        await asyncio.sleep(0.5)
        end_grace(engine, NAME)
        for server in nodes[:2]:
            await open_rooms(server)
        yield nodes
    finally:
        for server in nodes:
            await server.close()


async def run(starts: int, rounds: int, only: str, *, is_local: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="scalesocket-bench-") as name:
        engine = EngineProcess(Path(name))
        engine.start()
        try:
            loads = [load for load in LOADS if only in load.title]
            figures: dict[Load, Figures] = {load: {} for load in loads}
            lobby = []
            for start in range(starts):
                engine.client.flushall()
                async with running(Path(name), engine) as nodes:
                    for load in loads:
                        compare(nodes, rounds, load, figures[load], is_odd=start % 2 == 1, is_local=is_local)
                    if not (only or is_local):
                        lobby += await measure_lobby(nodes[1], nodes[2], 4)
            report(figures)
            if only or is_local:
                return
            print(
                f"| new room in the lobby of another node (s) | median {statistics.median(lobby):.2f}, longest {max(lobby):.2f} |"
            )
            for in_flight in (1, 64):
                engine.client.flushall()
                await claims_alone(engine, in_flight)
        finally:
            engine.close()


async def claims_alone(engine: EngineProcess, in_flight: int) -> None:
    """Print claims a second on an engine without other nodes."""
    settings = Cluster.model_validate({"engine": engine.url, "name": NAME, "listen": "127.0.0.1:0", "secret": SECRET})
    directory = Directory(settings, node="first", advertise="127.0.0.1:1", version="")
    await directory.open_session()
    await directory.close()
    engine.client.delete(f"{{{NAME}}}:node:first")
    end_grace(engine, NAME)
    print(
        f"| claims and releases of one node, {in_flight} in flight (1/s) | {await measure_claims(engine, 2.0, in_flight):,.0f} |"
    )


def compare(nodes: Sequence[Node], rounds: int, load: Load, figures: Figures, *, is_odd: bool, is_local: bool) -> None:
    """Run a load in turns. `is_odd`: begin with the server that was second. `is_local`: leave out rooms on another node."""
    without, local, remote = nodes
    passed = {without: [without.gateway], local: [local.gateway], remote: [local.gateway, remote.gateway]}
    for number in range(rounds):
        pair = (without, local) if (number % 2 == 1) is is_odd else (local, without)
        for node in pair if is_local else (*pair, remote):
            figures.setdefault(node.name, []).append(measure(node, passed[node], load))


def report(figures: Mapping[Load, Figures]) -> None:
    """Print the table: medians, and the ratios with their intervals of confidence."""
    print(
        "| | without `[cluster]` | room on the node | its CPU time | room on another node | its CPU time |\n" + "|---" * 6 + "|"
    )
    for load, of in figures.items():
        cells = [load.title, f"{statistics.median(sample.figure for sample in of['without']):,.0f}"]
        for name in ("local", "remote") if "remote" in of else ("local",):
            ratios = [
                estimate_ratio([sample[at] for sample in of[name]], [sample[at] for sample in of["without"]]) for at in (0, 1)
            ]
            cpu = statistics.median(sample.cpu for sample in of[name])
            cells.append(f"{statistics.median(sample.figure for sample in of[name]):,.0f}, {ratios[0]} ×")
            cells.append(f"{cpu:,.2f} µs, {ratios[1]} ×")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--starts", type=int, default=8, help="how often the servers are started")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each load after each start")
    parser.add_argument("--only", default="", metavar="WORD", help="loads with this word in their titles")
    parser.add_argument("--local", action="store_true", help="leave out rooms on another node")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends the servers, too
    asyncio.run(run(arguments.starts, arguments.rounds, arguments.only, is_local=arguments.local))


if __name__ == "__main__":
    main()
