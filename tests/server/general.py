"""A gateway behind the general lane alone: a listener that gives every connection to Hypercorn."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any, cast

import anyio
import httpx
from websockets.asyncio.client import ClientConnection, connect

from scalesocket.backends.launcher import Spawner
from scalesocket.config.model import App, Server, Site
from scalesocket.gateway import Gateway, open_gateway
from scalesocket.server.asgi import GeneralLane
from scalesocket.server.handover import Hypercorn, open_hypercorn


@dataclass(frozen=True, slots=True, kw_only=True)
class General:
    """The lane, running."""

    port: int
    gateway: Gateway
    hypercorn: Hypercorn
    http: httpx.AsyncClient

    async def ask(self, request: bytes) -> bytes:
        """Send bytes as they are; return what comes until the server closes, which the request should ask for."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            with anyio.fail_after(10):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def join(self, path: str, **options: Any) -> ClientConnection:
        """Open a websocket as this lane gets it: a request first, then the upgrade on the same connection."""
        sock = await open_kept_alive(self.port)
        return await connect(f"ws://127.0.0.1:{self.port}{path}", sock=sock, **options)

    async def wait_no_connections(self) -> None:
        """Wait until Hypercorn has let go of every connection."""
        with anyio.fail_after(5):
            while self.hypercorn.connections:  # noqa: ASYNC110 - it is a number, not an event
                await anyio.sleep(0.01)

    async def get_raw(self, target: bytes) -> tuple[int, bytes]:
        """GET a target that no client library would send as it is; return status and body."""
        answer = await self.ask(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body


async def open_kept_alive(port: int) -> socket.socket:
    """Ask for `/health` and keep the connection."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    with anyio.fail_after(10):
        while not answer.endswith(b'{"status":"ok"}'):
            answer += await loop.sock_recv(sock, 4096)
    return sock


class Acceptor(asyncio.Protocol):
    """Gives a connection on with the first bytes that were read."""

    def __init__(self, hypercorn: Hypercorn) -> None:
        self.hypercorn = hypercorn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, chunk: bytes) -> None:
        self.hypercorn.take_over(self.transport, chunk)


@asynccontextmanager
async def open_general(site: Site) -> AsyncIterator[General]:
    """Serve a site on the general lane until the block ends."""
    spawner = Spawner()
    spawner.start()
    with closing(spawner):
        async with _serve(site, spawner) as general:
            yield general


@asynccontextmanager
async def _serve(site: Site, spawner: Spawner) -> AsyncIterator[General]:
    async with (
        open_gateway(site, spawner=spawner) as gateway,
        anyio.create_task_group() as tasks,
        open_hypercorn(GeneralLane(gateway, tasks), gateway) as hypercorn,
    ):
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Acceptor(hypercorn), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                yield General(port=port, gateway=gateway, hypercorn=hypercorn, http=http)
        finally:
            server.close()
            tasks.cancel_scope.cancel()


def make_site(*apps: App, **server: object) -> Site:
    """A site of these apps."""
    return Site(apps={app.name: app for app in apps}, server=Server.model_validate(server))
