"""Fixtures that serve a site with real sockets and processes, on both lanes and both event loops.

A test that takes `serve` runs twice, so that each lane and each loop has a turn. Where it is marked `every_combination`, it runs
four times: on each lane with each loop. A test that takes `serve_express` runs twice: on the express lane with each loop.
Each of them runs once more with three workers, two of which own most rooms and get the connections from the first, unless it is
marked `one_process`.
"""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
import structlog

from scalesocket import logs
from scalesocket.config.model import App, Server
from tests.placement.kit import open_workers
from tests.playing import Lane, Playground, open_playground, site_of

LEFT_OUT: Final = {("express", "asyncio"), ("general", "uvloop")}
"""Lanes with event loops that only marked tests of `serve` run in."""

# nohup and some job runners start the tests with SIGHUP ignored, and every server that a test starts would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A shell without job control starts commands in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=["express", "general", "workers"])
def lane(request: pytest.FixtureRequest) -> Lane:
    return cast(Lane, request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not is_left_out(item)]


def is_left_out(item: pytest.Item) -> bool:
    """Whether a test is in a combination of lane and loop in which it does not run."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    params = item.callspec.params
    lane, loop = params.get("lane", params.get("serve_express")), params.get("anyio_backend")
    is_serving = "serve" in item.fixturenames
    if lane == "workers":
        return loop == "asyncio" or "one_process" in item.keywords or not (is_serving or "serve_express" in params)
    return is_serving and "every_combination" not in item.keywords and (lane, loop) in LEFT_OUT


class Serve:
    """Serves a site of the given apps: `site = await serve(chat={"command": ["cat"]})`."""

    def __init__(self, stack: AsyncExitStack, lane: Lane, events: list[Any], folder: Path) -> None:
        self._stack = stack
        self._lane = lane
        self.folder = folder
        """An empty folder for this test's programs."""
        self.events = events
        """The log events so far."""

    async def __call__(self, server: Server | None = None, **apps: App | dict[str, Any]) -> Playground:
        open_site = open_workers if self._lane == "workers" else open_playground
        return await self._stack.enter_async_context(open_site(site_of(apps, server), self._lane))

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the entries of the log with this event."""
        return [entry for entry in self.events if entry["event"] == event]


@contextmanager
def capture_all_logs() -> Iterator[list[Any]]:
    """Capture the log at every level. An earlier test in this process may have set another one."""
    logs.set_level("debug")
    try:
        with structlog.testing.capture_logs() as events:
            yield events
    finally:
        logs.set_level("info")


@pytest.fixture
async def serve(anyio_backend: object, lane: Lane, tmp_path: Path) -> AsyncIterator[Serve]:
    with capture_all_logs() as events:
        async with AsyncExitStack() as stack:
            yield Serve(stack, lane, events, tmp_path)


@pytest.fixture(params=["express", "workers"])
async def serve_express(request: pytest.FixtureRequest, anyio_backend: object, tmp_path: Path) -> AsyncIterator[Serve]:
    with capture_all_logs() as events:
        async with AsyncExitStack() as stack:
            yield Serve(stack, request.param, events, tmp_path)
