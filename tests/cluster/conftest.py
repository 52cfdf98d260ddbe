"""Fixtures with real engines."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.engines import ClusterOfTests, EngineProcess


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
