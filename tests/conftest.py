"""Fixtures that serve a site with real sockets and processes, on both lanes and both event loops.

A test that takes `serve` runs twice, so that each lane and each loop has a turn. Where it is marked `every_combination`, it runs
four times: on each lane with each loop. A test that takes `serve_express` runs twice: on the express lane with each loop.
"""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from scalesocket import logs
from scalesocket.config.model import App, Server
from tests.playing import Lane, Playground, open_playground, site_of

# nohup and some job runners start the tests with SIGHUP ignored, and every server that a test starts would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A shell without job control starts commands in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=["express", "general"])
def lane(request: pytest.FixtureRequest) -> Lane:
    return cast(Lane, request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not is_left_out(item)]


def is_left_out(item: pytest.Item) -> bool:
    """Whether a test of `serve` is in a combination of lane and loop in which only marked tests run."""
    if not isinstance(item, pytest.Function) or "serve" not in item.fixturenames or item.get_closest_marker("every_combination"):
        return False
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return (params.get("lane"), params.get("anyio_backend")) in {("express", "asyncio"), ("general", "uvloop")}


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
        return await self._stack.enter_async_context(open_playground(site_of(apps, server), self._lane))

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


@pytest.fixture
async def serve_express(anyio_backend: object, tmp_path: Path) -> AsyncIterator[Serve]:
    with capture_all_logs() as events:
        async with AsyncExitStack() as stack:
            yield Serve(stack, "express", events, tmp_path)
