"""Closing many clients gradually."""

from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from scalesocket.drain import drain_rooms
from scalesocket.errors import SHUTTING_DOWN
from scalesocket.status import Counts

pytestmark = pytest.mark.anyio


async def test_drain_timeout_counts_the_time_that_closing_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 clients that take 0.2 ms each to close, and a timeout of one second for all."""
    now = 0.0

    async def sleep(delay: float) -> None:
        nonlocal now
        now += delay

    class SlowRoom:
        """A room whose clients take time to close."""

        def __init__(self) -> None:
            self.clients = {number: SimpleNamespace(id=number) for number in range(3000)}
            self.counts = Counts()

        def expel(self, client: SimpleNamespace, close: object) -> None:
            nonlocal now
            now += 0.0002
            del self.clients[client.id]

        def stop(self, close: object) -> None:
            assert not self.clients

    with monkeypatch.context() as patch:
        patch.setattr(anyio, "current_time", lambda: now)
        patch.setattr(anyio, "sleep", sleep)
        await drain_rooms([cast(Any, SlowRoom())], SHUTTING_DOWN, timeout=1.0)

    assert now < 1.3  # clients that are left after the timeout are closed at once
