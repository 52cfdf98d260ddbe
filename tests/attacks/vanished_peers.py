"""Peers that vanish without a word, as when a cable is pulled: how long it takes until the server has closed them.

`python -m tests.attacks.vanished_peers` prints the figures. Server and peers are in network namespaces of their own, joined by a
virtual cable, of which one end is switched off. Needs root.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.attacks.victim import serve
from tests.cli.serving import Serving
from tests.playing import until
from tests.raw import CLOSE, PING, PONG, TEXT, RawClient, mask_frame, upgrade

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = 20
"""Peers in each of the two rooms."""
SERVER, PEER = "10.99.0.1", "10.99.0.2"
SITE: Final = f"""
[server]
bind = ["{SERVER}:0", "127.0.0.1:0"]
control = "off"

[defaults]
routing = "json"
ping_interval = "1s"
ping_timeout = "1s"
stall_timeout = "30s"
stop_timeout = "1s"

[apps.idle]
command = ["cat"]

[apps.busy]
command = ["sh", "-c", "exec 3<&0; cat <&3 & while sleep 0.05; do echo '{{\\"tick\\":1}}'; done"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Seconds from the cut until the last peer had left each room, and until all their descriptors were closed."""

    idle: float
    busy: float
    closed: float


def may_isolate() -> bool:
    """Whether this process may make network namespaces and virtual cables."""
    words = ("unshare", "-n", "ip", "link", "add", "cable0", "type", "veth", "peer", "name", "cable1")
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def attack() -> Figures:
    """Run the attack in namespaces of its own."""
    words = ("unshare", "-n", sys.executable, "-m", "tests.attacks.vanished_peers", "--inside")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return Figures(**json.loads(done.stdout))


def run_inside() -> Figures:
    """Lay the cable, let the peers join, cut it, and wait until all have left."""
    anchor = subprocess.Popen(("unshare", "-n", "sleep", "60"))
    try:
        lay_cable(anchor.pid)
        with tempfile.TemporaryDirectory() as folder, serve(Path(folder), SITE) as server:
            return asyncio.run(measure(server, anchor.pid))
    finally:
        anchor.kill()
        anchor.wait()


def lay_cable(pid: int) -> None:
    """Join this namespace and that of the process, which it is about to enter, by a pair of virtual devices."""
    deadline = time.monotonic() + 10.0
    while Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", str(pid))
    for prefix, device, address in (((), "cable0", SERVER), (enter(pid), "cable1", PEER)):
        run(*prefix, "ip", "address", "add", f"{address}/24", "dev", device)
        run(*prefix, "ip", "link", "set", device, "up")


def enter(pid: int) -> tuple[str, ...]:
    return "nsenter", "--target", str(pid), "--net"


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


async def measure(server: Serving, pid: int) -> Figures:
    words = (*enter(pid), sys.executable, "-m", "tests.attacks.vanished_peers", "--port", str(server.port))
    peers = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert peers.stdout is not None
    try:
        local = int(server.output.rpartition("http://127.0.0.1:")[2].partition("/")[0].split()[0])
        async with asyncio.timeout(30):
            assert await peers.stdout.readline() == b"connected\n"
            async with await RawClient.join(local, "/idle/one") as ann, await RawClient.join(local, "/busy/one") as bob:
                assert count_connections(PEER) == 2 * PEERS
                run(*enter(pid), "ip", "link", "set", "cable1", "down")
                cut = time.monotonic()
                idle, busy = await asyncio.gather(wait_left(ann), wait_left(bob))
            await until(lambda: count_connections(PEER) == 0)
        return Figures(idle=idle - cut, busy=busy - cut, closed=time.monotonic() - cut)
    finally:
        if peers.returncode is None:
            peers.kill()
        await peers.wait()


def count_connections(address: str) -> int:
    """Count the connections to an address that a process of this namespace holds: those that it has closed have no inode."""
    remote = socket.inet_aton(address)[::-1].hex().upper()
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].startswith(remote) and row[9] != "0" for row in rows)


async def wait_left(client: RawClient) -> float:
    """Wait until every peer has left the room of this client; return when the last one did."""
    left = 0
    while left < PEERS:
        frame = await client.read_frame()
        assert frame.opcode != CLOSE, frame
        if frame.opcode == PING:
            client.send(mask_frame(frame.payload, PONG))
        elif frame.opcode == TEXT:
            left += json.loads(frame.payload).get("t") == "Leave"
    return time.monotonic()


async def be_peers(port: int) -> None:
    """Join both rooms, and answer pings for ever."""

    async def play(path: str, joined: asyncio.Event) -> None:
        client = RawClient(*await asyncio.open_connection(SERVER, port))
        client.send(upgrade(path, host=SERVER))
        assert (await client.read_head()).startswith("HTTP/1.1 101 ")
        joined.set()
        while True:
            frame = await client.read_frame()
            if frame.opcode == PING:
                client.send(mask_frame(frame.payload, PONG))

    async with asyncio.TaskGroup() as tasks:
        for number in range(2 * PEERS):
            joined = asyncio.Event()
            tasks.create_task(play("/idle/one" if number % 2 else "/busy/one", joined))
            await joined.wait()
        print("connected", flush=True)


def main() -> None:
    """Print the figures, or be a part of the attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inside", action="store_true", help="run in the namespace of this process; print JSON")
    parser.add_argument("--port", type=int, help="be the peers of a server at this port")
    arguments = parser.parse_args()
    if arguments.port is not None:
        asyncio.run(be_peers(arguments.port))
    elif arguments.inside:
        figures = run_inside()
        print(json.dumps(asdict(figures)))
    else:
        figures = attack()
        print(f"{PEERS} peers of an idle room had left after {figures.idle:.2f} s, and of a busy one after {figures.busy:.2f} s")
        print(f"all their descriptors were closed after {figures.closed:.2f} s")


if __name__ == "__main__":
    main()
