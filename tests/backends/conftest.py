"""A spawner, and rooms that record output. Every test runs on both event loops and must leave no process or descriptor."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
import structlog

from scalesocket.backends.ports import Ports
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.io.poller import Poller
from tests.backends.recording import OpenRoom, adopted, all_children, children, open_fds
from tests.playing import until


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def _orphans() -> None:
    adopted.clear()
    adopted.update(all_children())


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[dict[str, object]]]:
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture
async def loop(anyio_backend: object) -> asyncio.AbstractEventLoop:
    """The loop, which by the next fixture has opened what it needs for itself."""
    return asyncio.get_running_loop()


@pytest.fixture
async def poller(loop: asyncio.AbstractEventLoop) -> AsyncIterator[Poller]:
    with closing(Poller(loop)) as poller:
        yield poller


@pytest.fixture
async def spawner(poller: Poller) -> AsyncIterator[SpawnerClient]:
    before = open_fds()
    spawner = SpawnerClient()
    spawner.start()
    spawner.attach(poller)
    yield spawner
    left = spawner.groups
    await until(lambda: len(children()) <= 1)  # orphans that this process adopted are reaped at intervals
    spawner.close()
    assert left == frozenset()
    assert children() == []
    assert open_fds() == before


@pytest.fixture
def ports() -> Iterator[Ports]:
    ports = Ports()
    yield ports
    assert ports.taken == frozenset()


@pytest.fixture
async def open_room(spawner: SpawnerClient, ports: Ports) -> OpenRoom:
    return OpenRoom(spawner, ports)
