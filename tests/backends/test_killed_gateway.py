"""No program outlives its gateway, however gateway and spawner are killed."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator

import pytest

from tests.backends.gateways import KILLS, Gateway, kill_both, open_all_kinds, reap, started_gateway
from tests.backends.recording import (
    PROGRAMS,
    exists,
    is_alive,
    program,
    until,
)
from tests.backends.spawners import list_running


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """One event loop is enough: the gateway's own is in the other process."""
    return "asyncio", {"use_uvloop": False}


pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway(loop: asyncio.AbstractEventLoop) -> AsyncIterator[Gateway]:
    async with started_gateway() as gateway:
        yield gateway


async def test_a_killed_gateway_leaves_nothing(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    assert len(pids) == 3 + 1 + 2 + 2 + 2
    await until(lambda: sum(map(is_alive, pids)) == 8)  # two leaders have ended, and left somebody behind

    await gateway.kill()

    await until(lambda: not any(map(is_alive, {*pids, gateway.spawner})))


async def test_a_gateway_that_is_killed_after_its_spawner_leaves_nothing(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    await gateway.kill_spawner()
    pids |= await gateway.open(*program("nest"))
    await gateway.kill_spawner()
    pids |= await gateway.open(*program("nest"))
    await until(lambda: sum(map(is_alive, pids)) == 8 + 3 + 3)

    await gateway.kill()

    await until(lambda: not any(map(is_alive, {*pids, gateway.spawner})))


class Engine:
    """Takes last words, and notes whether a program was alive when they came."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.words: list[bytes] = []
        self.alive: list[int] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.alive += [pid for pid in self.pids if is_alive(pid)]
        self.words.append(await reader.read())
        writer.close()


@pytest.mark.parametrize("how", [*KILLS, "the gateway alone", "the gateway, after a spawner"])
async def test_the_last_word_is_sent_once_when_all_programs_are_dead(gateway: Gateway, how: str) -> None:
    engine = Engine()
    async with await asyncio.start_server(engine.take, "127.0.0.1", 0) as server:
        await gateway.ask(f"word {server.sockets[0].getsockname()[1]}")
        engine.pids = pids = await open_all_kinds(gateway)  # the spawner has the word by then
        guards = {await gateway.guardian()}
        if how == "the gateway, after a spawner":
            await gateway.kill_spawner()
            pids.update(await gateway.open(*program("nest")))
            guards.add(await gateway.guardian())

        if how in KILLS:
            await kill_both(gateway, how)
        else:
            await gateway.kill()

        await until(lambda: bool(engine.words))
        await until(lambda: not any(map(is_alive, {*guards, gateway.spawner})))
    assert (engine.words, engine.alive) == ([b"word"], [])


async def test_a_gateway_that_exits_leaves_nothing(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)

    assert gateway.process.stdin is not None
    gateway.process.stdin.close()

    await gateway.process.wait()
    await until(lambda: not any(map(is_alive, {*pids, gateway.spawner})))


@pytest.mark.parametrize("how", KILLS)
async def test_nothing_outlives_a_gateway_and_a_spawner_killed_together(loop: asyncio.AbstractEventLoop, how: str) -> None:
    for _ in range(2):
        async with started_gateway() as gateway:
            pids = await open_all_kinds(gateway)
            pids |= await gateway.open(*program("nest"), port="auto")
            if os.geteuid() == 0:
                pids |= await gateway.open("sh", "-c", "sleep 60 & echo $!; exec sleep 60", user="nobody")
            pids |= await gateway.open("sh", "-c", "sleep 60 & echo $!; exec sleep 60", limits={"open_files": 64})
            guardian = await gateway.guardian()

            await kill_both(gateway, how)

            await until(lambda pids=pids: not any(map(is_alive, pids)))
            await until(lambda guardian=guardian: not is_alive(guardian))


async def test_programs_being_started_do_not_outlive_gateway_and_spawner(loop: asyncio.AbstractEventLoop) -> None:
    for running in (1, 10, 30):
        async with started_gateway() as gateway:
            marker = f"7{time.monotonic_ns() % 10**9}"
            await gateway.ask(f"storm 1000 sleep {marker}")
            await until(lambda marker=marker, running=running: len(list_running(marker)) >= running)

            await kill_both(gateway)

            await until(lambda marker=marker: not list_running(marker))


async def test_programs_of_a_previous_spawner_do_not_outlive_gateway_and_spawner(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    former = await gateway.guardian()
    await gateway.kill_spawner()
    await until(lambda: not exists(former))
    pids |= await gateway.open(*program("nest"))

    await kill_both(gateway)

    await until(lambda: not any(map(is_alive, pids)))


async def test_a_guardian_that_is_killed_is_replaced(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    first = await gateway.guardian()
    await asyncio.sleep(1.1)  # one that dies young is replaced after a pause

    os.kill(first, signal.SIGKILL)

    async with asyncio.timeout(10):
        while (second := await gateway.guardian()) == first:  # noqa: ASYNC110 there is no event of it
            await asyncio.sleep(0.01)
    assert is_alive(second)
    pids |= await gateway.open(*program("nest"))
    await kill_both(gateway)
    await until(lambda: not any(map(is_alive, pids)))


async def test_backends_share_the_session_of_the_gateway_and_have_no_terminal(loop: asyncio.AbstractEventLoop) -> None:
    ours, its = os.openpty()
    process = await asyncio.create_subprocess_exec(
        "setsid",
        "--ctty",
        sys.executable,
        str(PROGRAMS / "gateway.py"),
        stdin=its,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(PROGRAMS.parent.parent)},
    )
    os.close(its)
    assert process.stdout is not None
    spawner = int(await process.stdout.readline())

    os.write(ours, json.dumps({"command": ["sh", "-c", "(exec 3<>/dev/tty) 2>/dev/null; echo $?; exec cat"]}).encode() + b"\n")
    pid, status = json.loads(await process.stdout.readline())

    assert status != 0
    assert os.getsid(pid) == os.getsid(process.pid)
    os.close(ours)
    process.kill()
    await process.communicate()
    await until(lambda: not is_alive(spawner))
    reap()
