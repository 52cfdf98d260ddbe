"""Connections that arrive at an address while an edit removes it, and that no worker takes."""

import socket
from contextlib import closing, suppress
from typing import Any, cast

import anyio
import pytest
import structlog

from scalesocket.auth.files import AuthFiles
from scalesocket.placement import inbox
from scalesocket.server.addresses import address_of_socket
from scalesocket.server.listen import Listener, Listeners, identify
from scalesocket.workers.edits import Edits
from tests.workers.test_all_workers import open_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_they_are_counted_and_logged_like_upgrades_whose_worker_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "SEND_TIMEOUT", 0.0)
    async with open_server() as server:
        for sending, _ in server.workers.inboxes:
            with suppress(BlockingIOError):
                while True:
                    sending.send(b"full", socket.MSG_DONTWAIT)
        admission = server.operators.gateway.admission
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        address = address_of_socket(sock, fd=None)
        listener = Listener(address, sock, identify(address), is_inherited=False)

        with structlog.testing.capture_logs() as events:
            async with anyio.create_task_group() as tasks:  # waits until all is counted
                edits = Edits(server.workers, admission, cast(Listeners, None), cast(AuthFiles, None), tasks)
                with closing(edits), socket.create_connection(sock.getsockname()), socket.create_connection(sock.getsockname()):
                    await edits.close_listeners([listener])

        assert dict(admission.refusals) == {"owner_busy": 2}
        (dropped,) = (event for event in events if event["event"] == "connections dropped")
        assert (dropped["connections"], dropped["reason"]) == (2, "owner_busy")
        assert (await server.operators.overview.status()).refusals["owner_busy"] == 2
