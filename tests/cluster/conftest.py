"""Fixtures with real engines, and a node without a server that other nodes reach."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest

from scalesocket.cluster.peer_client import PeerClient
from scalesocket.io.poller import Poller
from tests.backends.recording import open_fds, until
from tests.cluster.engines import ClusterOfTests, EngineProcess
from tests.cluster.nodes import SECRET, BareNode, Contexts, make_tls


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One loop: what is tested here waits for the engine, and does not depend on the loop."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    engine = EngineProcess(tmp_path_factory.mktemp("engine"))
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def cluster(shared_engine: EngineProcess, request: pytest.FixtureRequest) -> ClusterOfTests:
    """A cluster in the engine that all tests of a module share."""
    return ClusterOfTests(shared_engine, f"test-{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine that the test may kill. It is not started."""
    engine = EngineProcess(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.close()


@pytest.fixture
async def poller(anyio_backend: object) -> AsyncIterator[Poller]:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    before = open_fds()
    with closing(Poller(loop)) as poller:
        yield poller
    await until(lambda: open_fds()["socket"] == before["socket"])


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def node(poller: Poller) -> AsyncIterator[BareNode]:
    with closing(BareNode(poller)) as node:
        yield node


@pytest.fixture
async def client(poller: Poller) -> AsyncIterator[PeerClient]:
    with closing(PeerClient(SECRET, poller=poller)) as client:
        yield client
