"""A whole site under a stock Hypercorn."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.attacks.http2_floods import Attacker, make_flood
from tests.playing import DEADLINE, Player, until
from tests.raw import RawClient, upgrade

pytestmark = pytest.mark.anyio

SITE = """
[apps.chat]
command = ["cat"]
routing = "json"
"""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop for the test; the server has its own."""
    return "asyncio"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path, SITE)


@pytest.fixture
def wrong_site(tmp_path: Path) -> Path:
    return write_site(tmp_path, SITE.replace('"json"', '"jsn"'))


def write_site(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


@asynccontextmanager
async def run_hypercorn(site: Path, *options: str) -> AsyncIterator[Process]:
    entry = f"scalesocket.server.asgi:create_app({str(site)!r})"
    words = ("-m", "hypercorn", "--bind", "127.0.0.1:0", "--graceful-timeout", "1", *options, entry)
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=PIPE, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the workers, too, which outlive a killed master
        await process.communicate()


async def wait_port(process: Process) -> int:
    """Read the log up to the line with the port."""
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        while line := await process.stderr.readline():
            if found := re.search(rb"Running on http://127.0.0.1:(\d+)", line):
                return int(found[1])
    raise AssertionError("it ended before it listened")


@pytest.mark.parametrize("worker", ["asyncio", "uvloop"])
async def test_it_serves_and_closes_with_1001(site: Path, worker: str) -> None:
    if worker == "asyncio" and sys.version_info >= (3, 12):
        pytest.skip("Hypercorn on this loop waits for its clients to leave (pgjones/hypercorn#308)")
    async with run_hypercorn(site, "--worker-class", worker) as process:
        port = await wait_port(process)
        ann = Player(await connect(f"ws://127.0.0.1:{port}/chat/lobby", proxy=None))
        await ann.hear('{"t":"Join","_from":1,"_event":"join"}')
        await ann.say('{"hello":1}')
        await ann.hear('{"_from":1,"hello":1}')
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/health")).json() == {"status": "ok"}
            assert (await http.get(f"http://127.0.0.1:{port}/chat/api/lobby/connections")).text == "1"

        process.send_signal(signal.SIGTERM)

        assert await ann.wait_closed() == (1001, "the server is shutting down")
        async with asyncio.timeout(DEADLINE):
            assert await process.wait() == 0


async def test_it_serves_only_its_hosts(site: Path) -> None:
    async with run_hypercorn(site) as process:
        port = await wait_port(process)

        async def ask(path: str, host: str, *fields: str) -> str:
            async with await RawClient.connect(port) as client:
                lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "Accept-Language: en", *fields, "", "")
                client.send(upgrade(path, *fields, host=host) if fields else "\r\n".join(lines).encode())
                return (await client.read_head()).split(" ")[1]

        evil, good = f"evil.example:{port}", f"localhost:{port}"
        pages = [await ask("/health", host) for host in (evil, good, "a, b", "a@b")]
        websockets = [await ask("/chat/one", host, f"Origin: http://{host}") for host in (evil, good, "a, b", "a@b")]

    assert pages == ["421", "200", "400", "400"]
    assert websockets == ["421", "101", "400", "400"]


async def test_a_second_worker_is_refused(site: Path) -> None:
    async with run_hypercorn(site, "--workers", "2") as process:
        async with asyncio.timeout(DEADLINE):
            _, log = await process.communicate()

    assert b"another worker already serves it" in log
    assert b"run hypercorn with one worker" in log


async def test_an_invalid_site_file_is_reported_with_the_position(wrong_site: Path) -> None:
    async with run_hypercorn(wrong_site, "--workers", "0") as process:
        async with asyncio.timeout(DEADLINE):
            _, log = await process.communicate()

    assert b"site.toml:4:" in log
    assert process.returncode != 0


async def test_http2_floods_and_upgrades_to_h2c_have_no_effect(site: Path) -> None:
    async with run_hypercorn(site) as process:
        port = await wait_port(process)
        attacker = Attacker(port, make_flood("PRIORITY"))
        attacker.start()
        try:
            await until(lambda: attacker.is_over)
        finally:
            await asyncio.to_thread(attacker.stop)
        assert attacker.end == "ENHANCE_YOUR_CALM"

        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{port}/health", headers={"Connection": "Upgrade", "Upgrade": "h2c"})
        assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
