"""A thousand peers send their request heads a byte at a time and never finish, while ten others play.

`python -m tests.attacks.slow_heads` prints the round trips of the players before, during and after the attack. The peers are in a
process of their own, connect again when they are timed out, and send a byte each every second.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.attacks.victim import CHAT, echo, join, memory, serve
from tests.raw import RawClient, upgrade

SITE: Final = '[server]\nbind = "127.0.0.1:0"\ncontrol = "off"\nhandshake_timeout = "1s"\n'
PEERS: Final = 1_000
PLAYERS: Final = 10
PAUSE: Final = 0.01
"""Seconds between two messages of one player."""
INTERVAL: Final = 1.0
"""Seconds between two bytes of one peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Round trips in seconds, sorted, by phase; how many peers were timed out; the growth of the server's memory in bytes."""

    before: list[float]
    during: list[float]
    after: list[float]
    timed_out: int
    growth: int


def p99(times: list[float]) -> float:
    """The 99th percentile."""
    return times[len(times) * 99 // 100]


async def attack(folder: Path, *, peers: int = PEERS, seconds: float = 2.0) -> Figures:
    """Play `seconds` before, during and after the attack."""
    with serve(folder, SITE + CHAT) as server:
        async with contextlib.AsyncExitStack() as stack:
            players = [await stack.enter_async_context(join(server, f"/chat/room-{number}")) for number in range(PLAYERS)]
            await play(players, 0.3)
            before, size = await play(players, seconds), memory(server)
            async with slow_peers(server.port, peers) as timed_out:
                during, grown = await play(players, seconds), memory(server)
                ended = await timed_out()
            after = await play(players, seconds)
        return Figures(before=before, during=during, after=after, timed_out=ended, growth=grown - size)


async def play(players: list[RawClient], seconds: float) -> list[float]:
    """Let each player send a message and wait for it, again and again; return all round trips, sorted."""
    times: list[float] = []
    end = time.monotonic() + seconds

    async def one(player: RawClient) -> None:
        while time.monotonic() < end:
            times.append(await echo(player, "hello"))
            await asyncio.sleep(PAUSE)

    await asyncio.gather(*map(one, players))
    return sorted(times)


@contextlib.asynccontextmanager
async def slow_peers(port: int, peers: int) -> AsyncIterator["Count"]:
    """Run the peers in a process of their own until the block ends; it begins when all are connected."""
    words = (sys.executable, "-m", "tests.attacks.slow_heads", "--port", str(port), "--peers", str(peers))
    process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, cwd=Path(__file__).parents[2])
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"connected\n"
        yield Count(process.stdin, process.stdout)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process.stdin.close()


@dataclass(frozen=True, slots=True)
class Count:
    """Asks the process of the peers how many of them were timed out so far."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    async def __call__(self) -> int:
        self.stdin.write(b"\n")
        return int(await self.stdout.readline())


async def be_slow(port: int, peers: int) -> None:
    """Be the peers."""
    head = upgrade("/chat/one", "X-Padding: " + "x" * 10_000)
    timed_out = 0

    async def one(number: int) -> None:
        nonlocal timed_out
        await asyncio.sleep(INTERVAL * number / peers)
        while True:
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    for byte in head:
                        writer.write(bytes((byte,)))
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(INTERVAL):
                                await reader.read(1)
                                timed_out += 1
                                break
                finally:
                    writer.close()

    tasks = [asyncio.create_task(one(number)) for number in range(peers)]
    await asyncio.sleep(INTERVAL * 1.2)
    print("connected", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(timed_out, flush=True)
    for task in tasks:
        task.cancel()


def main() -> None:
    """Print the figures, or be the peers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=PEERS)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--port", type=int, help="be the peers of a server at this port")
    arguments = parser.parse_args()
    if arguments.port is not None:
        asyncio.run(be_slow(arguments.port, arguments.peers))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(attack(Path(folder), peers=arguments.peers, seconds=arguments.seconds))
    print("phase   round trips   median      p99      max")
    for name, times in (("before", figures.before), ("during", figures.during), ("after", figures.after)):
        median, longest = statistics.median(times), times[-1]
        print(f"{name:<7} {len(times):>11} {median * 1000:>8.2f} {p99(times) * 1000:>8.2f} {longest * 1000:>8.2f} ms")
    print(f"{figures.timed_out} peers timed out; the server's memory grew by {figures.growth / 1024 / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
