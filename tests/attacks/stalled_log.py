"""A log that nobody reads: it is a pipe, and a program writes a line to stderr every 2 ms.

Prints the longest echo in another room, the longest handshake and the longest `/health` during the attack, and how long the
server takes to end after SIGTERM; "hangs" after DEADLINE.
"""

import asyncio
import fcntl
import os
import socket
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.raw import RawClient

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 3.0
DEADLINE: Final = 5.0
"""Seconds after which an operation counts as hanging."""

NOISY: Final = """\
import sys, time
while True:
    print("n" * 200, file=sys.stderr, flush=True)
    time.sleep(0.002)
"""
SITE: Final = """\
[server]
bind = "unix:socket"
control = "off"
log = { level = "debug" }
[apps.noisy]
command = ["{python}", "noisy.py"]
[apps.quiet]
command = ["cat"]
"""


@dataclass(slots=True)
class Figures:
    """The results in seconds; None for an operation that hung."""

    echo: float | None = 0.0
    handshake: float | None = 0.0
    health: float | None = 0.0
    end: float | None = None
    """From SIGTERM to the exit."""
    code: int | None = None
    echoes: int = 0


async def attack(folder: Path, seconds: float = SECONDS) -> Figures:
    """Serve a site in `folder`, attack it for `seconds`, and stop it."""
    (folder / "noisy.py").write_text(NOISY)
    (folder / "site.toml").write_text(SITE.replace("{python}", sys.executable))
    unread, log = os.pipe()
    fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, 4096)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(folder / "ready"))
        ready.setblocking(False)
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scalesocket", "serve", "site.toml"),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(folder / "ready")},
            stdout=log,
            stderr=log,
        )
        os.close(log)
        try:
            async with asyncio.timeout(30.0):
                assert await asyncio.get_running_loop().sock_recv(ready, 4096) == b"READY=1"
            return await _measure(server, folder / "socket", seconds)
        finally:
            if server.returncode is None:
                server.kill()
            await server.wait()
            os.close(unread)


async def _measure(server: Process, address: Path, seconds: float) -> Figures:
    figures = Figures()
    noisy = await RawClient.join(address, "/noisy/room")
    quiet = await RawClient.join(address, "/quiet/room")
    until = time.monotonic() + seconds

    async def echo() -> None:
        quiet.say("hello")
        await quiet.hear("hello")
        figures.echoes += 1

    async def handshake() -> None:
        await (await RawClient.join(address, "/quiet/room2")).close()

    async def health() -> None:
        async with await RawClient.connect(address) as client:
            client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert "200" in await client.read_head()

    figures.echo, figures.handshake, figures.health = await asyncio.gather(
        _longest(echo, until, 0.005), _longest(handshake, until, 0.05), _longest(health, until, 0.05)
    )
    for client in (noisy, quiet):
        client.cut()
    asked = time.monotonic()
    server.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE):
            figures.code = await server.wait()
            figures.end = time.monotonic() - asked
    return figures


async def _longest(once: Callable[[], Awaitable[None]], until: float, pause: float) -> float | None:
    """Repeat an operation; return the longest time it took, or None if it hangs."""
    longest = 0.0
    while (begun := time.monotonic()) < until:
        try:
            async with asyncio.timeout(DEADLINE):
                await once()
        except TimeoutError:
            return None
        longest = max(longest, time.monotonic() - begun)
        await asyncio.sleep(pause)
    return longest


def main() -> None:
    """Print the results, one per line."""
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(attack(Path(folder)))
    for name, took in (
        ("longest echo", figures.echo),
        ("longest handshake", figures.handshake),
        ("longest /health", figures.health),
        ("end after SIGTERM", figures.end),
    ):
        print(f"{name:<18} {'hangs' if took is None else f'{took * 1000:8.1f} ms'}")
    print(f"{'echoes':<18} {figures.echoes}")
    print(f"{'exit code':<18} {figures.code}")


if __name__ == "__main__":
    main()
