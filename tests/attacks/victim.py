"""A server in a process of its own, with raw clients in the test's process, for faults and loads."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from tests.cli.serving import Serving, serving
from tests.raw import PING, RawClient

HEAD: Final = '[server]\nbind = "127.0.0.1:0"\ncontrol = "off"\n'
CHAT: Final = '[apps.chat]\ncommand = ["cat"]\nstop_timeout = "1s"\n'


@contextlib.contextmanager
def serve(folder: Path, text: str, *words: str, **options: Any) -> Iterator[Serving]:
    """Serve a site of this text from `folder`, with more words of the command line and options of `serving`."""
    (folder / "site.toml").write_text(text)
    with serving("serve", str(folder / "site.toml"), *words, **options) as server:
        yield server


@contextlib.asynccontextmanager
async def join(server: Serving, path: str = "/chat/one") -> AsyncIterator[RawClient]:
    client = await RawClient.join(server.port, path)
    async with client:
        yield client


async def echo(client: RawClient, text: str) -> float:
    """Send a message and wait for it, however many pings come before; return the seconds that this took."""
    begun = time.monotonic()
    client.say(text)
    while (frame := await client.read_frame()).payload != text.encode():
        assert frame.opcode == PING, frame
    return time.monotonic() - begun


async def health(server: Serving) -> bytes:
    async with await RawClient.connect(server.port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await client.read_end())[:12]


def memory(server: Serving, field: str = "VmRSS") -> int:
    """The server's memory in bytes; with "VmHWM" the highest so far."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def descriptors(server: Serving) -> set[int]:
    """The numbers of the server's open descriptors."""
    return {int(entry.name) for entry in Path(f"/proc/{server.process.pid}/fd").iterdir()}
