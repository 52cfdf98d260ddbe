"""Real proxies, with the configuration of docs/operations.md."""

import asyncio
import re
import shutil
import socket
import ssl
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect

from scalesocket.config.model import App
from scalesocket.wire.http2 import PREFACE
from tests.examples.test_docs import ROOT, find_blocks
from tests.playing import DEADLINE, Player, Playground, open_playground
from tests.ports import free_port
from tests.server.general import make_site
from tests.server.test_expiry import make_certificate

pytestmark = pytest.mark.anyio

OPERATIONS: Final = ROOT / "docs" / "operations.md"
CHAT: Final = App(name="chat", command=["cat"])
UPGRADE: Final = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
MAP: Final = "proxy_set_header Upgrade $ws_upgrade;\n        proxy_set_header Connection $ws_connection;"
NO_MAP: Final = 'proxy_set_header Upgrade $http_upgrade;\n        proxy_set_header Connection "upgrade";'
"""The configuration of many recipes on the web."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def site(anyio_backend: Any) -> AsyncIterator[Playground]:
    async with open_playground(make_site(CHAT, trusted_proxies=["127.0.0.1/32"])) as playground:
        yield playground


def recipe(language: str, **changes: str) -> str:
    """The configuration of docs/operations.md, with some of its text replaced."""
    (text,) = find_blocks(OPERATIONS, language)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def run(port: int, *words: str, **environ: str) -> AsyncIterator[None]:
    """Run a proxy until the block ends; it listens on `port` when the block begins."""
    process = await asyncio.create_subprocess_exec(*words, env=environ, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    try:
        await wait_listening(process, port)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def wait_listening(process: Process, port: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@asynccontextmanager
async def run_nginx(folder: Path, server: int, **changes: str) -> AsyncIterator[int]:
    """Run nginx before the server on that port; yield the port of nginx."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        pytest.skip("needs nginx (apt-get install nginx-light)")
    port = free_port()
    text = recipe("nginx", **{"listen 80;": f"listen 127.0.0.1:{port};", "127.0.0.1:9000": f"127.0.0.1:{server}"}, **changes)
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    async with run(port, nginx, "-p", str(folder), "-c", str(config), "-e", "stderr"):
        yield port


@asynccontextmanager
async def run_caddy(folder: Path, server: int) -> AsyncIterator[int]:
    """Run Caddy before the server on that port; yield the port of Caddy."""
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("needs Caddy (apt-get install caddy)")
    port = free_port()
    text = recipe("caddyfile", **{"play.example {": f"http://127.0.0.1:{port} {{", "127.0.0.1:9000": f"127.0.0.1:{server}"})
    config = folder / "Caddyfile"
    text = re.sub(r" *stream_close_delay .*\n", "", text)  # Debian 12 has Caddy 2.6
    config.write_text(f"{{\nadmin off\n}}\n{text}")
    words = ("run", "--config", str(config), "--adapter", "caddyfile")
    async with run(port, caddy, *words, HOME=str(folder), XDG_DATA_HOME=str(folder), XDG_CONFIG_HOME=str(folder)):
        yield port


@asynccontextmanager
async def run_haproxy(folder: Path, text: str) -> AsyncIterator[int]:
    """Run HAProxy with a configuration that names the port `PORT`; yield that port."""
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if haproxy is None:
        pytest.skip("needs HAProxy (apt-get install haproxy)")
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(f"global\n    maxconn 100\n{text.replace('PORT', str(port))}")
    async with run(port, haproxy, "-db", "-f", str(config)):
        yield port


async def ask(port: int, path: bytes = b"/health", upgrade: bytes = b"h2c", then: bytes = b"") -> bytes:
    """Ask for an upgrade, and send more on the same connection; return the first line of the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(UPGRADE % (path, b"127.0.0.1:%d" % port, upgrade) + then)
        async with asyncio.timeout(DEADLINE):
            return await reader.readline()
    finally:
        writer.close()


async def check_proxy(site: Playground, port: int) -> None:
    """Check that the proxy forwards websockets and no other upgrade, and reports the client's address in spite of the client."""
    forged = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.2"}
    player = Player(await connect(f"ws://127.0.0.1:{port}/chat/lobby", proxy=None, compression=None, additional_headers=forged))
    site.players.append(player)
    await player.say("hello")
    await player.hear("hello")
    (client,) = site.room("chat", "lobby").clients.values()
    assert client.peer == ("127.0.0.1", 0)

    assert (await ask(port)).startswith(b"HTTP/1.1 200 ")
    assert (await ask(port, then=PREFACE)).startswith(b"HTTP/1.1 200 ")
    assert (await ask(port, upgrade=b"spdy/3")).startswith(b"HTTP/1.1 200 ")


async def check_private(port: int) -> None:
    """Check that no spelling of a private path leads to its page."""
    for path in (b"/metrics", b"/ready", b"/api/apps/"):
        assert (await ask(port, path)).startswith(b"HTTP/1.1 403 "), path
    for path in (b"/%6detrics", b"//metrics", b"/chat/../metrics", b"/./metrics", b"/%2e/metrics", b"/chat/%2e%2e/metrics"):
        assert not (await ask(port, path)).startswith(b"HTTP/1.1 200 "), path


async def test_nginx_passes_websockets_and_no_other_upgrade(site: Playground, tmp_path: Path) -> None:
    async with run_nginx(tmp_path, site.port) as port:
        await check_proxy(site, port)
        await check_private(port)


async def test_nginx_that_forwards_every_upgrade_is_not_a_tunnel(site: Playground, tmp_path: Path) -> None:
    async with run_nginx(tmp_path, site.port, **{MAP: NO_MAP, 'proxy_set_header HTTP2-Settings "";': ""}) as port:
        await check_proxy(site, port)


async def test_caddy_passes_websockets_and_no_other_upgrade(site: Playground, tmp_path: Path) -> None:
    async with run_caddy(tmp_path, site.port) as port:
        await check_proxy(site, port)
        await check_private(port)


async def test_haproxy_passes_websockets_and_no_other_upgrade(site: Playground, tmp_path: Path) -> None:
    text = recipe("haproxy", **{"bind :80": "bind 127.0.0.1:PORT", "127.0.0.1:9000": f"127.0.0.1:{site.port}"})
    async with run_haproxy(tmp_path, text) as port:
        await check_proxy(site, port)
        await check_private(port)


async def test_haproxy_passes_tls_on_and_reports_the_client_before_it(anyio_backend: Any, tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, days=2).tls
    async with open_playground(make_site(CHAT, trusted_proxies=["127.0.0.1/32"], tls=tls)) as site:
        times = "defaults\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n"
        text = times + recipe("cfg", **{"bind :443": "bind 127.0.0.1:PORT", "127.0.0.1:9443": f"127.0.0.1:{site.port}"})
        async with run_haproxy(tmp_path, text) as port:
            trust = ssl.create_default_context(cafile=tmp_path / "site.pem")
            trust.check_hostname = False
            sock = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.77", 0))
            player = Player(await connect(f"wss://localhost:{port}/chat/lobby", sock=sock, ssl=trust, proxy=None))
            site.players.append(player)
            await player.say("hello")
            await player.hear("hello")

            (client,) = site.room("chat", "lobby").clients.values()
            assert client.peer == sock.getsockname()
