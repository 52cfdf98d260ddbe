"""A gateway to be killed: opens a room for each line of standard input, a JSON object with the keys of an app.

Prints the pid of its spawner, then for each room a JSON list of pids: its leader's, and those in the first line of its output.
The line `kill` kills the spawner and prints the pid of the next one; `guardian` prints the pid of the guardian; `storm N ARG…`
starts a command N times, prints an empty line when the first one has started, and continues; `deadline SECONDS` has all
backends killed so many seconds from now, and prints the time, in CLOCK_BOOTTIME; `word PORT` has the last word sent to a port.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import structlog

from scalesocket.backends import spawner_client
from scalesocket.backends.child import SpawnRequest
from scalesocket.backends.kill_deadline import boottime
from scalesocket.backends.open import open_backend
from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.config.model import App
from scalesocket.io.poller import Poller


class Room:
    def __init__(self) -> None:
        self.output = b""
        self.has_line = asyncio.Event()

    def backend_output(self, chunk: bytes) -> None:
        self.output += chunk
        if b"\n" in self.output:
            self.has_line.set()

    def backend_blocked(self) -> None: ...

    def backend_unblocked(self) -> None: ...


async def main(spawner: SpawnerClient) -> None:
    loop = asyncio.get_running_loop()
    spawner.attach(Poller(loop))
    print(spawner.pid, flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        if line == b"kill\n":
            old = spawner.pid
            assert old is not None
            spawner_client.SHORT_LIFE = 0.0  # type: ignore[misc]  # replaced at once, however young it is
            os.kill(old, signal.SIGKILL)
            while spawner.pid in {old, None}:  # noqa: ASYNC110 there is no event of it
                await asyncio.sleep(0.01)
            print(spawner.pid, flush=True)
            continue
        if line == b"guardian\n":
            print(spawner.guardian, flush=True)
            continue
        if line.startswith(b"deadline "):
            at = boottime() + float(line.split()[1])
            spawner.set_deadline(at)
            print(at, flush=True)
            continue
        if line.startswith(b"word "):
            word = {"address": ("127.0.0.1", int(line.split()[1])), "payload": b"word", "is_tls": False, "ca": None}
            spawner.set_deadline(None, word)
            print(flush=True)
            continue
        if line.startswith(b"storm "):
            _, number, *argv = line.decode().split()
            request = SpawnRequest(argv=tuple(argv), env=dict(os.environ), cwd="/")
            starts = [asyncio.ensure_future(spawner.spawn(request)) for _ in range(int(number))]
            await starts[0]
            print(flush=True)
            continue
        room = Room()
        app = App.model_validate({"name": "app", "cwd": Path("/"), **json.loads(line)})
        backend = await open_backend(app, dict(os.environ), room="lobby", receiver=room, spawner=spawner, ports=Ports())
        await room.has_line.wait()
        leader = () if backend.pid is None else (backend.pid,)
        print(json.dumps([*leader, *map(int, room.output.split())]), flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    first = SpawnerClient()
    first.start()
    asyncio.run(main(first))
