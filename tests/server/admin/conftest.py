"""Sites with an admin surface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from scalesocket.config.model import App, Server, Site
from tests.server.general import General, make_site, open_general

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CHAT = App(name="chat", command=["cat"], origins=["*"])
HIDDEN = CHAT.model_copy(update={"name": "hidden", "listed": False})


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSite:
    """A running site with an admin surface, and a client of that with the token."""

    general: General
    http: httpx.AsyncClient

    @property
    def addresses(self) -> list[str]:
        return self.general.playground.service.admin.listeners.addresses

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    async def edit(self, server: Server) -> None:
        """Apply an edited `[server]` table, as a reload does."""
        service = self.general.playground.service
        change = await service.admin.prepare(server)
        service.gateway.apply(Site(apps=service.gateway.site.apps, server=server))
        change.commit()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def open_admin_site(*apps: App, admin: dict[str, object] | None = None, **server: object) -> AsyncIterator[AdminSite]:
    """Serve apps with an admin surface on a free port, or at a unix socket."""
    admin = admin or {"bind": "127.0.0.1:0", "token": TOKEN}
    async with open_general(*(apps or (CHAT, HIDDEN)), admin=admin, **server) as general:
        (address,) = general.playground.service.admin.listeners.addresses
        path = address.removeprefix("unix:")
        uds, base = (path, "http://admin") if path != address else (None, f"http://{address}")
        transport = httpx.AsyncHTTPTransport(uds=uds)
        async with httpx.AsyncClient(transport=transport, base_url=base, headers=BEARER if uds is None else {}) as http:
            yield AdminSite(general=general, http=http)


@pytest.fixture
async def admin() -> AsyncIterator[AdminSite]:
    async with open_admin_site(api="admin", metrics="admin", metrics_rooms=True) as site:
        yield site


def server_with(admin: dict[str, object] | None) -> Server:
    return make_site(CHAT, admin=admin).server


def socket_at(folder: Path) -> dict[str, object]:
    return {"bind": f"unix:{folder}/admin.sock"}
