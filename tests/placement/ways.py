"""The ways in which a connection gets to the worker that owns its room."""

import shutil
import ssl
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from scalesocket.config.model import App
from scalesocket.server.service import Service
from tests.placement.conftest import ServeWorkers
from tests.placement.kit import Workers
from tests.playing import Player
from tests.server.test_expiry import make_certificate

CAT: Final = {"command": ["cat"]}

Way = Literal["socket", "pump", "relay"]

WAYS: Final[tuple[Way, ...]] = ("socket", "pump", "relay")
"""The client's own descriptor; TLS, where one end of a socket pair is handed over; and the general lane, with frames on it."""
every_way = pytest.mark.parametrize("way", WAYS)


async def serve_way(serve: ServeWorkers, way: Way, **apps: App | dict[str, Any]) -> Workers:
    """Serve apps for clients that take one way."""
    if way == "pump":
        if shutil.which("openssl") is None:
            pytest.skip("makes its certificate with openssl")
        return await serve(make_certificate(serve.folder, days=2), "express", **apps)
    return await serve(None, "general" if way == "relay" else "express", **apps)


async def join_by(site: Workers, way: Way, path: str, folder: Path, **options: Any) -> Player:
    """Open a websocket to the first worker."""
    if way == "pump":
        return await site.join(path, ssl=trust(folder), server_hostname="localhost", scheme="wss", **options)
    return await site.join(path, **options)


def trust(folder: Path) -> ssl.SSLContext:
    """Trust the certificate of a site."""
    return ssl.create_default_context(cafile=folder / "site.pem")


def passing(site: Workers) -> list[int]:
    """Connections that pass through each worker, on their way to another one."""
    return [len(service.connections.passages) for service in site.services]


def is_idle(service: Service) -> bool:
    """Whether no connection is left, nor counted."""
    connections = service.connections
    return (
        not (connections.transports or connections.websockets or connections.passages)
        and connections.hypercorn.open_connections == 0
    )


async def wait_idle(site: Workers) -> None:
    await site.until(lambda: all(map(is_idle, site.services)))
