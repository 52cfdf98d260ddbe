"""A gateway in a process of its own, to be killed."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.backends.recording import (
    PROGRAMS,
    is_alive,
    program,
    until,
)


class Gateway:
    """A gateway in a process of its own."""

    def __init__(self, process: Process, spawner: int) -> None:
        self.process = process
        self.spawner = spawner

    async def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(10):
            return (await self.process.stdout.readline()).decode()

    async def open(self, *command: str, **keys: object) -> set[int]:
        """The pids of a room's processes."""
        if command:
            keys["command"] = command
        return set(json.loads(await self.ask(json.dumps(keys))))

    async def kill_spawner(self) -> None:
        self.spawner = int(await self.ask("kill"))

    async def guardian(self) -> int:
        return int(await self.ask("guardian"))

    async def set_deadline(self, seconds: float) -> float:
        """Have all backends killed so many seconds from now; return when, in CLOCK_BOOTTIME."""
        return float(await self.ask(f"deadline {seconds}"))

    def stop(self) -> None:
        """Stop the gateway, as a debugger or a machine without memory does. `kill` ends it nevertheless."""
        self.process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def started_gateway(*wrapper: str) -> AsyncIterator[Gateway]:
    """`wrapper`: a command that executes its last arguments."""
    process = await asyncio.create_subprocess_exec(
        *wrapper,
        sys.executable,
        str(PROGRAMS / "gateway.py"),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(PROGRAMS.parent.parent)},
    )
    assert process.stdout is not None
    gateway = Gateway(process, int(await process.stdout.readline()))
    yield gateway
    if process.returncode is None:
        await gateway.kill()
    await until(lambda: not is_alive(gateway.spawner))
    reap()


def reap() -> None:
    """Reap orphans: since an earlier test this process may be a child subreaper, and so their parent."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def open_all_kinds(gateway: Gateway) -> set[int]:
    return {
        *await gateway.open(*program("nest")),
        *await gateway.open("sh", "-c", "trap '' TERM HUP INT; echo $$; while :; do sleep 60; done"),
        *await gateway.open("sh", "-c", "sleep 60 & echo $!"),
        *await gateway.open("sh", "-c", "(sleep 60 & echo $!); exec cat"),
        *await gateway.open(*program("grandchild", 60, "quiet")),
    }


KILLS = {
    "the gateway first": "kill -9 {gateway}; kill -9 {spawner}",
    "the spawner first": "kill -9 {spawner}; kill -9 {gateway}",
    "both": "kill -9 {gateway} {spawner}",
}


async def kill_both(gateway: Gateway, how: str = "both") -> None:
    """Kill the gateway and its spawner at the same moment."""
    command = KILLS[how].format(gateway=gateway.process.pid, spawner=gateway.spawner)
    await (await asyncio.create_subprocess_exec("sh", "-c", command)).wait()
    await gateway.process.communicate()
