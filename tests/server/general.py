"""A running site with an HTTP client, and with requests as raw bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx

from scalesocket.config.model import App, Server, Site
from scalesocket.gateway import Gateway
from tests.playing import Player, Playground, open_playground


@dataclass(frozen=True, slots=True, kw_only=True)
class General:
    """A running site, whose websockets join on the general lane."""

    playground: Playground
    http: httpx.AsyncClient

    @property
    def gateway(self) -> Gateway:
        return self.playground.gateway

    async def join(self, path: str) -> Player:
        return await self.playground.join(path)

    async def ask(self, request: bytes) -> bytes:
        """Send bytes; return everything received until the server closes, which the request should ask for."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.playground.port)
        try:
            writer.write(request)
            with anyio.fail_after(10):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def get_raw(self, target: bytes) -> tuple[int, bytes]:
        """GET a target that a client library would normalize; return status and body."""
        answer = await self.ask(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    @property
    def connections(self) -> int:
        """Connections that Hypercorn serves."""
        return self.playground.service.connections.hypercorn.open_connections

    async def wait_no_connections(self) -> None:
        """Wait until Hypercorn serves no connection."""
        await self.playground.until(lambda: self.connections == 0)


@asynccontextmanager
async def open_general(*apps: App, **server: object) -> AsyncIterator[General]:
    """Serve apps on a free port until the block ends."""
    async with (
        open_playground(make_site(*apps, **server), "general") as playground,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{playground.port}") as http,
    ):
        yield General(playground=playground, http=http)


def make_site(*apps: App, **server: object) -> Site:
    """A site of these apps."""
    settings = Server.model_validate({"bind": "127.0.0.1:0", **server})
    return Site(apps={app.name: app for app in apps}, server=settings)
