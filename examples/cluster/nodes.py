"""The engine of the cluster and its nodes."""

import importlib.util
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from process import ClusterError, Process, find_program

NODES = ("a1", "a2", "a3")


def make_engine(folder: Path, port: int) -> Process:
    program = find_program("redis-server", "valkey-server", package="redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    return Process("the engine", command, folder / "engine.log", lambda: is_listening(f"127.0.0.1:{port}"))


def make_nodes(folder: Path, ports: Sequence[int], engine: int) -> dict[str, Process]:
    """`ports`: two for each node, for clients and for other nodes."""
    common = {"ENGINE": f"redis://127.0.0.1:{engine}/0", "CLUSTER_SECRET": secrets.token_hex(32)}
    command = [find_scalesocket(), "serve", "site.toml"]
    nodes = {}
    for name, client, internal in zip(NODES, ports[::2], ports[1::2], strict=True):
        address = f"127.0.0.1:{client}"
        own = {"NODE": name, "BIND": address, "LISTEN": f"127.0.0.1:{internal}", "CONTROL": f"{folder}/{name}.sock"}
        nodes[address] = Process(
            f"node {name}", command, folder / f"{name}.log", lambda at=address: is_listening(at), **common, **own
        )
    return nodes


def find_scalesocket() -> str:
    """Return the path of `scalesocket`. Raises ClusterError if it, or what it needs for a cluster, is not installed."""
    beside = Path(sys.executable).with_name("scalesocket")
    found = str(beside) if beside.exists() else shutil.which("scalesocket")
    if found is None:
        raise ClusterError("found no scalesocket (run `make install`, or pip install 'scalesocket[cluster]')")
    if importlib.util.find_spec("redis") is None:
        raise ClusterError("Python's redis is not installed (pip install 'scalesocket[cluster]')")
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
