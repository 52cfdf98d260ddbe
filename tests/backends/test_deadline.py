"""At its deadline, every backend is killed: also when the gateway is stopped, and its spawner too."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from scalesocket.backends.kill_deadline import boottime
from tests.backends.gateways import Gateway, open_all_kinds, started_gateway
from tests.backends.recording import is_alive, until
from tests.backends.spawners import list_running

pytestmark = pytest.mark.anyio
LATE = 1.0
"""Seconds after the deadline by which all is over, on a busy machine; docs/spawner.md has what it takes on an idle one."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """One event loop is enough: the gateway's own is in the other process."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
async def gateway(loop: asyncio.AbstractEventLoop) -> AsyncIterator[Gateway]:
    async with started_gateway() as gateway:
        yield gateway


async def wait_killed(pids: set[int], deadline: float) -> None:
    """Wait until all are dead, which must be at the deadline."""
    await until(lambda: not any(map(is_alive, pids)))
    assert deadline - 0.01 < boottime() < deadline + LATE


async def open_some(gateway: Gateway) -> set[int]:
    """Open rooms of all kinds; return their processes that run."""
    pids = await open_all_kinds(gateway)
    pids |= await gateway.open("sh", "-c", "sleep 60 & echo $!; exec sleep 60", limits={"open_files": 64})
    await until(lambda: sum(map(is_alive, pids)) == 8 + 2)  # two leaders have ended, and left somebody behind
    return {pid for pid in pids if is_alive(pid)}


async def test_a_stopped_gateway_has_no_backend_after_the_deadline(gateway: Gateway) -> None:
    pids = await open_some(gateway)
    deadline = await gateway.set_deadline(0.5)

    gateway.stop()

    await wait_killed(pids, deadline)


async def test_a_stopped_gateway_and_a_stopped_spawner_have_no_backend_after_the_deadline(gateway: Gateway) -> None:
    pids = await open_some(gateway)
    deadline = await gateway.set_deadline(0.5)
    pids |= await gateway.open("sh", "-c", "echo $$; exec sleep 60")  # started after the spawner has read the deadline

    gateway.stop()
    os.kill(gateway.spawner, signal.SIGSTOP)

    await wait_killed(pids, deadline)
    os.kill(gateway.spawner, signal.SIGCONT)


async def test_a_stopped_gateway_without_a_spawner_has_no_backend_after_the_deadline(gateway: Gateway) -> None:
    pids = await open_some(gateway)
    deadline = await gateway.set_deadline(0.5)
    pids |= await gateway.open("sh", "-c", "echo $$; exec sleep 60")

    gateway.stop()
    os.kill(gateway.spawner, signal.SIGKILL)

    await wait_killed(pids, deadline)


async def test_a_replaced_spawner_gets_the_deadline(gateway: Gateway) -> None:
    pids = await open_some(gateway)
    deadline = await gateway.set_deadline(1.0)
    former = await gateway.guardian()
    await gateway.kill_spawner()
    pids |= await gateway.open("sh", "-c", "echo $$; exec sleep 60")
    await until(lambda: not is_alive(former))

    gateway.stop()

    await wait_killed(pids, deadline)


async def test_a_gateway_that_runs_kills_by_itself_when_its_spawner_is_stopped(gateway: Gateway) -> None:
    pids = await open_some(gateway)
    deadline = await gateway.set_deadline(0.5)

    os.kill(gateway.spawner, signal.SIGSTOP)
    os.kill(await gateway.guardian(), signal.SIGSTOP)

    await wait_killed(pids, deadline)
    os.kill(gateway.spawner, signal.SIGCONT)


async def test_a_spawner_that_does_not_answer_is_replaced_before_the_last_deadline_that_it_knows(gateway: Gateway) -> None:
    pids = await open_some(gateway)
    known = await gateway.set_deadline(1.8)
    pids |= await gateway.open("sh", "-c", "echo $$; exec sleep 60")  # started after the spawner has read the deadline
    stopped = gateway.spawner
    os.kill(stopped, signal.SIGSTOP)

    while is_alive(stopped):
        assert boottime() < known
        deadline = await gateway.set_deadline(1.8)
        await asyncio.sleep(0.1)

    await asyncio.sleep(known + 0.2 - boottime())  # what must not happen has no event
    assert all(map(is_alive, pids))
    gateway.stop()
    await wait_killed(pids, deadline)


async def test_a_later_deadline_replaces_an_earlier_one(gateway: Gateway) -> None:
    pids = await open_some(gateway)
    await gateway.set_deadline(0.4)
    await gateway.set_deadline(0.2)
    deadline = await gateway.set_deadline(0.8)
    pids |= await gateway.open("sh", "-c", "echo $$; exec sleep 60")  # started after the spawner has read the deadline

    gateway.stop()
    os.kill(gateway.spawner, signal.SIGSTOP)  # the guardian knows the later one too

    await wait_killed(pids, deadline)
    os.kill(gateway.spawner, signal.SIGCONT)


async def test_reports_that_a_stopped_gateway_does_not_read_do_not_delay_the_deadline(gateway: Gateway, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pids = await gateway.open("sh", "-c", "echo $$; exec sleep 60")
    await gateway.ask(f"storm 400 cat {fifo}")
    await until(lambda: len(list_running(str(fifo))) == 400)
    deadline = await gateway.set_deadline(2.0)
    gateway.stop()

    with fifo.open("wb"):  # each one reads the end of file and exits, which is reported: more than the kernel holds
        pass

    await until(lambda: not list_running(str(fifo)))
    await wait_killed(pids, deadline)


class Target:
    """A server that a room connects to."""

    def __init__(self) -> None:
        self.received = b""
        self.ended_at: float | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"1\n")
        self.received = await reader.read()
        self.ended_at = boottime()
        writer.close()


OpenTarget = Callable[[], Awaitable[Target]]


@pytest.fixture
async def open_target(gateway: Gateway) -> AsyncIterator[OpenTarget]:
    """Opens a room of a server of its own."""
    async with AsyncExitStack() as servers:

        async def open_target() -> Target:
            target = Target()
            server = await asyncio.start_server(target.serve, "127.0.0.1", 0)
            servers.callback(server.close)
            await gateway.open(tcp="{}:{}".format(*server.sockets[0].getsockname()))
            return target

        yield open_target
        await gateway.kill()  # which ends the connections


async def test_connections_to_targets_are_shut_down_at_the_deadline(gateway: Gateway, open_target: OpenTarget) -> None:
    before = await open_target()
    deadline = await gateway.set_deadline(0.5)
    after = await open_target()

    gateway.stop()

    for target in (before, after):
        await until(lambda target=target: target.ended_at is not None)
        assert deadline - 0.01 < (target.ended_at or 0.0) < deadline + LATE


async def test_a_replaced_spawner_shuts_connections_to_targets_down(gateway: Gateway, open_target: OpenTarget) -> None:
    target = await open_target()
    deadline = await gateway.set_deadline(1.0)
    former = await gateway.guardian()
    await gateway.kill_spawner()
    await until(lambda: not is_alive(former))

    gateway.stop()

    await until(lambda: target.ended_at is not None)
    assert deadline - 0.01 < (target.ended_at or 0.0) < deadline + LATE


def count_sockets(pid: int) -> int:
    """The sockets of a process."""
    return sum("socket:" in str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())


async def test_without_a_deadline_the_spawner_holds_no_connections(gateway: Gateway, open_target: OpenTarget) -> None:
    own = count_sockets(gateway.spawner)
    await open_target()
    await gateway.open("sh", "-c", "echo $$; exec sleep 60")  # a later request, which has been served

    assert count_sockets(gateway.spawner) == own

    await gateway.set_deadline(60)
    await until(lambda: count_sockets(gateway.spawner) == own + 1)
