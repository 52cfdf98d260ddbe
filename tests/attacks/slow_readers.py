"""Clients that read a burst at different speeds: what they receive, and how much a slow one delays the others.

`python -m tests.attacks.slow_readers` prints one row per case. A program prints SIZE megabytes at once to a room of healthy
clients, alone, beside one that never reads, and beside one that takes a megabyte a second. The server runs in a process
of its own with default settings.
"""

import argparse
import contextlib
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.raw import mask_frame, upgrade

MB: Final = 1_000_000
WIDTH: Final = 1000
"""Bytes of a line, without its end."""
FRAME: Final = WIDTH + 4
DEADLINE: Final = 180.0
READ: Final = 1 << 18
RSS: Final = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The results of the healthy clients in one case."""

    whole: int
    """Clients that received every byte."""
    seconds: float
    longest_gap: float
    """The longest time for which no healthy client received anything, in seconds."""
    peak: int
    """Peak memory of the server, in MB."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[30, 300])
    parser.add_argument("--beside", nargs="+", choices=["nobody", "deaf", "trickling"], default=["nobody", "deaf", "trickling"])
    arguments = parser.parse_args()
    print("beside     clients     MB  whole  seconds  MB/s each  longest gap  server MB")
    for beside in arguments.beside:
        for megabytes in arguments.megabytes:
            for clients in arguments.clients:
                outcome = measure(clients, megabytes, beside)
                print(
                    f"{beside:<9} {clients:>8} {megabytes:>6} {outcome.whole:>6} {outcome.seconds:>8.2f} "
                    f"{megabytes / outcome.seconds:>10.0f} {outcome.longest_gap * 1000:>9.0f} ms {outcome.peak:>10}",
                    flush=True,
                )


def measure(clients: int, megabytes: int, beside: str) -> Outcome:
    """Run one case on a new server."""
    lines = megabytes * MB // (WIDTH + 1)
    with serve(lines) as (port, pid):
        bad = start_bad_client(port, beside)
        try:
            players = [join(port) for _ in range(clients)]
            starter = join(port)
            starter.sendall(mask_frame(b"go"))
            starter.close()
            outcome = read_all(players, lines * FRAME)
        finally:
            if bad is not None:
                bad.kill()
                bad.join()
        status = Path(f"/proc/{pid}/status").read_text()
    peak = RSS.search(status)
    assert peak is not None
    return Outcome(
        whole=outcome.whole, seconds=outcome.seconds, longest_gap=outcome.longest_gap, peak=int(peak.group(1)) * 1024 // MB
    )


@contextlib.contextmanager
def serve(lines: int) -> Iterator[tuple[int, int]]:
    """Run a server with one app, whose program prints `lines` lines after its first input; yield port and process."""
    with tempfile.TemporaryDirectory() as folder:
        burst = Path(folder, "burst")
        with burst.open("wb") as file:
            for number in range(lines):
                file.write(b"%0*d\n" % (WIDTH, number))
        site = Path(folder, "site.toml")
        site.write_text(f"""
            [server]
            bind = "127.0.0.1:0"
            [apps.burst]
            command = ["sh", "-c", "read line; cat {burst}; cat > /dev/null"]
            """)
        log = Path(folder, "log")
        with log.open("wb") as file:
            server = subprocess.Popen(
                [sys.executable, "-m", "scalesocket", "serve", str(site)], stdout=file, stderr=subprocess.STDOUT
            )
        try:
            yield wait_port(log), server.pid
        finally:
            server.terminate()
            server.wait(30)
            if os.environ.get("SHOW_LOG"):
                print(log.read_text())


def wait_port(log: Path) -> int:
    """Read the port from the log of a starting server."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = re.search(r"http://127.0.0.1:(\d+)", log.read_text())
        if found is not None:
            return int(found.group(1))
        time.sleep(0.02)
    raise TimeoutError(log.read_text())


def join(port: int) -> socket.socket:
    """Open a websocket to the room."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.sendall(upgrade("/burst/one"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return sock


def read_all(players: list[socket.socket], size: int) -> Outcome:
    """Read with all clients, each in its own process, until each has everything or its connection ends."""
    with multiprocessing.Pool(len(players)) as pool:
        results = pool.map(partial(read, size=size), players, chunksize=1)
    began = min(result[0] for result in results)
    ended = max(result[1] for result in results)
    return Outcome(
        whole=sum(result[2] == size for result in results),
        seconds=ended - began,
        longest_gap=max(result[3] for result in results),
        peak=0,
    )


def read(player: socket.socket, size: int) -> tuple[float, float, int, float]:
    """Return the times of the first and the last bytes, the number of bytes, and the longest gap."""
    player.settimeout(DEADLINE)
    buffer = bytearray(READ)
    began = last = gap = 0.0
    got = 0
    while got < size:
        try:
            count = player.recv_into(buffer)
        except ConnectionError:
            break
        now = time.monotonic()
        if not count:
            break
        if began:
            gap = max(gap, now - last)
        began, last = began or now, now
        got += count
    return began, last, got, gap


def start_bad_client(port: int, kind: str) -> multiprocessing.Process | None:
    """Start another client of the room in its own process; None for none."""
    if kind == "nobody":
        return None
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=be_slow, args=(port, ready, 0 if kind == "deaf" else 1_000_000), daemon=True)
    process.start()
    assert ready.wait(10)
    return process


def be_slow(port: int, ready: "multiprocessing.synchronize.Event", rate: int) -> None:
    """Join, and read `rate` bytes per second in small pieces; nothing for 0."""
    sock = join(port)
    ready.set()
    while True:
        time.sleep(0.05)
        if rate and not sock.recv(rate // 20):
            return


if __name__ == "__main__":
    main()
