"""A client sends 100 MiB to a program that never reads: how much the server takes, how its memory grows, how others fare.

`python -m tests.attacks.deaf_program` prints the figures.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.attacks.victim import CHAT, HEAD, echo, join, memory, serve
from tests.playing import PROGRAMS
from tests.raw import mask_frame

MiB: Final = 1024 * 1024
PIECE: Final = mask_frame(b"x" * 65_536)
DEAF: Final = f"""
[apps.deaf]
command = ["{sys.executable}", "-I", "-S", "{PROGRAMS / "deaf.py"}"]
stall_timeout = "1h"
stop_timeout = "100ms"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The results; sizes in bytes, times in seconds."""

    taken: int
    """What left the sender: the buffers of its kernel included."""
    growth: int
    """The growth of the server's peak memory."""
    echoes: int
    slowest: float
    """The longest echo in another room meanwhile."""


async def attack(folder: Path, *, size: int = 100 * MiB, seconds: float = 1.0) -> Figures:
    """Send until everything is sent, or nothing was taken for `seconds`."""
    with serve(folder, HEAD + CHAT + DEAF) as server:
        async with join(server) as ann, join(server, "/deaf/one") as eve:
            await echo(ann, "before")
            before = memory(server, "VmHWM")
            sender = _Sender(eve.writer)
            sending = asyncio.create_task(sender.send(size))
            times: list[float] = []
            taken, since = -1, time.monotonic()
            while not sending.done() and time.monotonic() - since < seconds:
                times.append(await echo(ann, f"{len(times)}"))
                if sender.taken != taken:
                    taken, since = sender.taken, time.monotonic()
                await asyncio.sleep(0.01)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            return Figures(taken=taken, growth=memory(server, "VmHWM") - before, echoes=len(times), slowest=max(times))


class _Sender:
    """Sends pieces as fast as they are taken."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._sent = 0
        writer.transport.set_write_buffer_limits(high=0)

    @property
    def taken(self) -> int:
        """Bytes that left this process."""
        return self._sent - self._writer.transport.get_write_buffer_size()

    async def send(self, size: int) -> None:
        while self._sent < size:
            self._writer.write(PIECE)
            self._sent += len(PIECE)
            await self._writer.drain()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(attack(Path(folder), size=arguments.megabytes * MiB, seconds=5.0))
    print(f"taken from the sender    {figures.taken / MiB:8.2f} MiB of {arguments.megabytes}")
    print(f"growth of peak memory    {figures.growth / MiB:8.2f} MiB")
    print(f"longest echo of another  {figures.slowest * 1000:8.1f} ms, of {figures.echoes}")


if __name__ == "__main__":
    main()
