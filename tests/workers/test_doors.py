"""The doors of a site of three workers: TLS, HTTP/2, and static files, with clients that are handed over between processes."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import bcrypt
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.auth.test_matrix import basic
from tests.cli.serving import DEADLINE, scalesocket, serving
from tests.server.http2 import open_http2
from tests.server.test_expiry import make_certificate

SITE: Final = """
[server]
workers = 3
bind = "127.0.0.1:0"
control = "control.sock"
http2_websockets = true
tls = { certificate = "site.pem", key = "site.key" }

[apps.chat]
command = ["cat"]
static = "pages"
compression = true
auth = { users_file = "users", anonymous = true }
"""
ROOMS: Final = 9
"""With three workers, some are in each of them but for 3 % of the runs; each connection is accepted by any worker."""


class Site:
    """A running server, and its clients over TLS."""

    def __init__(self, file: Path, port: int, open_: AsyncExitStack) -> None:
        self.file = str(file)
        self.port = port
        self.tls = ssl.create_default_context(cafile=file.parent / "site.pem")
        self._open = open_

    async def join(self, room: str, **options: Any) -> ClientConnection:
        url = f"wss://127.0.0.1:{self.port}/chat/{room}"
        opening = connect(url, ssl=self.tls, server_hostname="localhost", open_timeout=DEADLINE, max_size=None, **options)
        return await self._open.enter_async_context(opening)

    async def run(self, *words: str) -> str:
        """Run a command, which succeeds; return its output."""
        done = await asyncio.to_thread(scalesocket, words[0], self.file, *words[1:])
        assert done.code == 0, done
        return done.out


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The site file and the port of the server of this module."""
    folder = tmp_path_factory.mktemp("site")
    make_certificate(folder, days=2)
    (folder / "pages").mkdir()
    (folder / "pages" / "big.txt").write_text("0123456789" * 100_000)
    (folder / "users").write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    file = folder / "site.toml"
    file.write_text(SITE)
    with serving("serve", str(file), cwd=folder) as served:
        yield file, served.port


@pytest.fixture
async def site(anyio_backend: object, server: tuple[Path, int]) -> AsyncIterator[Site]:
    async with AsyncExitStack() as open_:
        yield Site(*server, open_)


async def receive(client: ClientConnection) -> str | bytes:
    async with asyncio.timeout(DEADLINE):
        return await client.recv()


async def wait_closed(client: ClientConnection) -> int:
    """Wait until the server closes a connection; return the close code."""
    try:
        while True:
            await receive(client)
    except ConnectionClosed as closed:
        return 1006 if closed.rcvd is None else closed.rcvd.code


async def test_clients_over_tls_and_http2_meet_in_rooms_of_every_worker(site: Site) -> None:
    big = "0123456789abcdef" * 20_000
    async with open_http2(site.port, tls=site.tls) as http2:
        for number in range(ROOMS):
            ann, bob = await site.join(f"room{number}"), await http2.join(f"/chat/room{number}")
            await ann.send(f"from ann {number}")
            assert await receive(ann) == await bob.listen() == f"from ann {number}"
            await bob.say(big)
            assert await receive(ann) == await bob.listen() == big

    rooms = json.loads(await site.run("rooms", "chat", "--format", "json"))
    assert {room["room"] for room in rooms} >= {f"room{number}" for number in range(ROOMS)}


async def test_every_worker_serves_static_files(site: Site) -> None:
    for _ in range(6):  # each over a connection of its own
        async with httpx.AsyncClient(verify=site.tls, timeout=DEADLINE) as web:
            answer = await web.get(f"https://localhost:{site.port}/chat/big.txt")
            assert (answer.status_code, len(answer.content)) == (200, 1_000_000)
            again = await web.get(
                f"https://localhost:{site.port}/chat/big.txt", headers={"If-None-Match": answer.headers["etag"]}
            )
            assert again.status_code == 304


async def test_a_user_is_kicked_from_the_rooms_of_all_workers_and_nobody_else_is(site: Site) -> None:
    async with open_http2(site.port, tls=site.tls) as http2:
        anns = [await site.join(f"room{number}", additional_headers=basic("ann", "secret")) for number in range(ROOMS)]
        guests = [await site.join(f"room{number}") for number in range(ROOMS)]
        other = await http2.join("/chat/room0")

        await site.run("kick", "chat/*", "--user", "ann")

        assert [await wait_closed(ann) for ann in anns] == [4403] * ROOMS
        for guest in guests:
            await guest.send("still here")
            assert await receive(guest) == "still here"
        assert await other.listen() == "still here"
