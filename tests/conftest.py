"""What behaviour tests share: both loops, both lanes, and `serve`.

A behaviour test takes `serve` and runs four times, on each lane and each loop. A test of the wire takes `serve_express`
and runs twice, on each loop.
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

# A suite that was started with nohup, or by a program that ignores it, would hand that on to every server it starts.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=["express", "general"])
def lane(request: pytest.FixtureRequest) -> Lane:
    return cast(Lane, request.param)


class Serve:
    """Serves apps: `site = await serve(chat={"command": ["cat"]})`."""

    def __init__(self, stack: AsyncExitStack, lane: Lane, events: list[Any], folder: Path) -> None:
        self._stack = stack
        self._lane = lane
        self.folder = folder
        """An empty folder for this test's programs."""
        self.events = events
        """What was logged."""

    async def __call__(self, server: Server | None = None, **apps: App | dict[str, Any]) -> Playground:
        return await self._stack.enter_async_context(open_playground(site_of(apps, server), self._lane))

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The entries of the log with this event."""
        return [entry for entry in self.events if entry["event"] == event]


@contextmanager
def capture_all_logs() -> Iterator[list[Any]]:
    """Capture the log at every level, whatever level an earlier test of this process has set."""
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
