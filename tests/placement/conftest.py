"""A fixture that serves a site by several workers, on one event loop."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from scalesocket.config.model import App, Server
from tests.conftest import capture_all_logs
from tests.placement.kit import Workers, open_workers
from tests.playing import Lane, site_of


class ServeWorkers:
    """Serves a site of the given apps: `site = await serve_workers(chat={"command": ["cat"]})`."""

    def __init__(self, stack: AsyncExitStack, events: list[Any], folder: Path) -> None:
        self._stack = stack
        self.folder = folder
        self.events = events

    async def __call__(self, server: Server | None = None, lane: Lane = "express", **apps: App | dict[str, Any]) -> Workers:
        return await self._stack.enter_async_context(open_workers(site_of(apps, server), lane))

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the entries of the log with this event."""
        return [entry for entry in self.events if entry["event"] == event]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def serve_workers(anyio_backend: object, tmp_path: Path) -> AsyncIterator[ServeWorkers]:
    with capture_all_logs() as events:
        async with AsyncExitStack() as stack:
            yield ServeWorkers(stack, events, tmp_path)
