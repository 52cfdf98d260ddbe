"""What a cluster costs: `python -m benchmarks.cluster` prints the table of docs/cluster.md. Needs redis-server.

Three servers with one site: one without `[cluster]`, and two nodes. All rooms are on the first node: "local" clients connect to
it, "remote" ones to the second node. The servers take turns in short rounds, and the median counts.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect

from benchmarks.generator import run_drive
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
WINDOW: Final = ("--seconds", "0.6", "--warm", "0.2")
LOADS: Final = {
    "echo, 1 client, 1 in flight (µs)": (*WINDOW, "--rooms", "1", "--senders", "1", "--in-flight", "1", "--first-echo"),
    "echo, 50 rooms, 8 in flight (messages/s)": (*WINDOW, "--rooms", "50", "--senders", "1", "--in-flight", "8", "--first-echo"),
    "broadcast to 100, 1 in flight (messages/s)": (
        *WINDOW,
        "--clients",
        "100",
        "--senders",
        "1",
        "--in-flight",
        "1",
        "--size",
        "100",
    ),
    "broadcast to 100, 16 in flight (messages/s)": (
        *WINDOW,
        "--clients",
        "100",
        "--senders",
        "1",
        "--in-flight",
        "16",
        "--size",
        "100",
    ),
    "handshakes, 64 at a time (1/s)": ("--clients", "2000", "--concurrency", "64", "--sources", "8"),
}
ROOMS: Final = 50


def measure(node: Node, load: str) -> float:
    """Run a load once; return microseconds, messages received a second, or handshakes a second."""
    drive = run_drive(f"ws://{node.address}/bench/r{{}}", LOADS[load])
    if drive.traffic is None:
        return drive.arrival.clients / drive.arrival.seconds
    assert not drive.traffic.lost + drive.traffic.reordered + drive.traffic.duplicated
    return drive.traffic.latency_us.p50 if "µs" in load else drive.traffic.received / drive.traffic.seconds


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


async def run(rounds: int, only: str) -> None:
    with tempfile.TemporaryDirectory(prefix="scalesocket-bench-") as name:
        folder = Path(name)
        engine = EngineProcess(folder)
        engine.start()
        nodes = []
        for node in ("without", "local", "remote"):
            port, file = free_port(), folder / f"{node}.toml"
            cluster = "" if node == "without" else CLUSTER.format(engine=engine.url, node=node, peers=free_port())
            file.write_text(SITE.format(port=port, cluster=cluster))
            nodes.append(Node(node, file, "127.0.0.1", port, wrapper=(), is_guarded=True))
        try:
            for server in nodes:
                server.start()
            for server in nodes:
                await until(lambda at=server: "/health" in at.read_log(), "it serves", within=20, about=server.read_log)
            await asyncio.sleep(0.5)
            end_grace(engine, NAME)
            for server in nodes[:2]:
                await open_rooms(server)
            report(nodes, rounds, only)
            lobby = await measure_lobby(nodes[1], nodes[2], 10)
            print(
                f"| new room in the lobby of another node (s) | median {statistics.median(lobby):.2f}, longest {max(lobby):.2f} |"
            )
        finally:
            for server in nodes:
                await server.close()
            for in_flight in (1, 64):
                engine.client.flushall()
                await claims_alone(engine, in_flight)
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


def report(nodes: Sequence[Node], rounds: int, only: str) -> None:
    print("| | without `[cluster]` | room on the node | room on another node |\n|---|---|---|---|", flush=True)
    for load in LOADS:
        if only not in load:
            continue
        figures: dict[str, list[float]] = {node.name: [] for node in nodes}
        for number in range(rounds):
            for node in nodes if number % 2 == 0 else reversed(nodes):
                figures[node.name].append(measure(node, load))
        without, local, remote = (statistics.median(figures[node.name]) for node in nodes)
        ratio = statistics.median(one / other for one, other in zip(figures["local"], figures["without"], strict=True))
        cells = f"{without:,.0f} | {local:,.0f} ({ratio:.2f} ×) | {remote:,.0f} ({remote / without:.2f} ×)"
        print(f"| {load} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", metavar="WORD", help="loads with this word in their titles")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.rounds, arguments.only))


if __name__ == "__main__":
    main()
