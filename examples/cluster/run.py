"""Run a cluster on this machine: an engine, three nodes and a load balancer. `make cluster` calls it; Ctrl-C ends all of it.

A process that ends is started again after ten seconds, so that you can kill any of them and see what happens. Variables:

    BIND=127.0.0.1:8000   where the load balancer listens (default: 127.0.0.1:9000, or a free port if that is in use)
    BALANCER=nginx        or haproxy (default: the one that is installed, HAProxy first)
    LEASE=15s             the lease of the nodes (default: the one in site.toml)
"""

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from balancer import make_balancer
from nodes import NODES, find_scalesocket, free_ports, make_engine, make_nodes
from process import HERE, RESTART, ClusterError, Process, say

STOP = 10.0
"""Seconds for all processes to end; then they are killed."""

WORDS = """
A cluster of three nodes is running, with {balancer} as load balancer. Logs: {folder}

{pages}

Try:

  1. Open the chat on two nodes, in two tabs: http://{first}/chat/ and http://{second}/chat/
     Both are in one room, which one of the nodes owns. The other node hands its client over to it.

  2. Ask on which node a room is, in two terminals, and leave both open:
         {websockets} ws://{first}/where/lobby
         {websockets} ws://{second}/where/lobby
     Both print the same node and fence. What you type in one, the other one shows.

  3. Kill that node by its pid from above, for example a1:  kill -9 {pid}
     Both clients are disconnected. Connect again to another node: the room opens there within two seconds, with a higher fence.
     The killed node starts again after {restart:.0f} s.

  4. Ask any node about all of them:
         {scalesocket} cluster status {site} --control {folder}/a1.sock
         {scalesocket} rooms {site} --control {folder}/a1.sock
     Drain one. Its clients are disconnected; connect again, and their room opens on another node:
         {scalesocket} cluster drain {site} a2 --control {folder}/a1.sock
     It opens no rooms until it is started again.

  5. Kill the engine:  kill -9 {engine}
     It starts again, empty, after {restart:.0f} s. The lease is {lease} here; rooms end when four fifths of it have passed.
     With `LEASE=20s make cluster` the engine is back in time, and they go on.

Ctrl-C ends all of it.
"""


def run(folder: Path, front: str) -> None:
    """Run the cluster until a signal."""
    engine_port, *ports = free_ports(1 + 2 * len(NODES))
    engine = make_engine(folder, engine_port)
    nodes = make_nodes(folder, ports, engine_port)
    balancer = make_balancer(folder, front, nodes)
    processes = [balancer, *nodes.values(), engine]  # in the order in which they end
    try:
        say("starting an engine, three nodes and a load balancer …")
        engine.start()
        engine.wait_up()
        for node in nodes.values():
            node.start()
        for node in nodes.values():
            node.wait_up()
        balancer.start()
        balancer.wait_up()
        say(describe(folder, front, balancer.program, engine, nodes))
        while True:
            for process in processes:
                process.watch()
            time.sleep(0.2)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        deadline = time.monotonic() + STOP
        for process in processes[:-1]:
            process.stop()
        for process in processes[:-1]:
            process.wait_ended(deadline)
        engine.stop()  # last, so that the nodes can leave
        engine.wait_ended(deadline + 1)


def choose_front() -> str:
    """Return where the load balancer listens."""
    if wanted := os.environ.get("BIND"):
        host, _, port = wanted.rpartition(":")
        if not host or not port.isdigit():
            raise ClusterError(f"BIND={wanted} is not an address (write for example BIND=127.0.0.1:8000)")
        try:
            socket.create_server((host, int(port))).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(f"the load balancer cannot listen on {wanted}: {error} (choose another BIND)") from error
        return wanted
    try:
        socket.create_server(("127.0.0.1", 9000)).close()
    except OSError:
        (port,) = free_ports(1)
        return f"127.0.0.1:{port}"
    return "127.0.0.1:9000"


def read_lease() -> str:
    if lease := os.environ.get("LEASE"):
        return lease
    return (HERE / "site.toml").read_text().partition("${LEASE:-")[2].partition("}")[0]


def describe(folder: Path, front: str, balancer: str, engine: Process, nodes: Mapping[str, Process]) -> str:
    addresses = list(nodes)
    tools = shorten(Path(find_scalesocket()).parent)
    pages = {
        f"http://{front}/": "all rooms, through the load balancer",
        f"http://{front}/chat/": "a chat; open it in two tabs",
        **{f"http://{address}/": f"{node.name}, pid {node.pid}" for address, node in nodes.items()},
    }
    return WORDS.format(
        folder=folder,
        balancer=balancer,
        pages="\n".join(f"    {url:34} {meaning}" for url, meaning in pages.items()),
        first=addresses[0],
        second=addresses[1],
        pid=nodes[addresses[0]].pid,
        engine=engine.pid,
        lease=read_lease(),
        restart=RESTART,
        websockets=tools / "websockets",
        scalesocket=tools / "scalesocket",
        site=shorten(HERE / "site.toml"),
    )


def shorten(path: Path) -> Path:
    """Return a path as it may be written in the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="scalesocket-cluster-") as folder:
            run(Path(folder), choose_front())
    except KeyboardInterrupt:
        say("ended")
    except ClusterError as error:
        sys.exit(f"make cluster: {error}")


if __name__ == "__main__":
    main()
