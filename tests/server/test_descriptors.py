"""A server whose descriptors are all in use: what is kept back, for whom, and that it recovers."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.attacks.victim import descriptors
from tests.cli.serving import Serving, scalesocket_process, serving
from tests.playing import until
from tests.raw import CLOSE, RawClient, close_payload, upgrade

DEADLINE: Final = 10.0
LIMIT: Final = 256
"""Open files of the server: 32 are kept back, 8 of them for operators."""
SITE: Final = """
[server]
bind = "127.0.0.1:0"
control = "control.sock"
admin = { bind = "unix:admin.sock" }
handshake_timeout = "1h"

[apps.chat]
command = ["cat"]
static = "page"
"""


@pytest.fixture
def anyio_backend() -> str:
    """The server is a process of its own, whatever loop the test has."""
    return "asyncio"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<h1>hello")
    (tmp_path / "site.toml").write_text(SITE)
    limited = ("sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh")
    with serving("serve", "site.toml", cwd=tmp_path, wrapper=limited) as server:
        yield server


def count_descriptors(server: Serving) -> int:
    return len(descriptors(server))


def cpu_time(server: Serving) -> float:
    """Seconds of CPU time that the gateway has taken."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def get(server: Serving, path: str) -> tuple[str, str]:
    """GET a path; return head and body. A connection that is cut for a newer one is made again, as probes do."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return await get_once(server, path)
        except (ConnectionError, asyncio.IncompleteReadError):
            if time.monotonic() > deadline:
                raise


async def get_once(server: Serving, path: str) -> tuple[str, str]:
    client = await RawClient.connect(server.port)
    try:
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await client.read_head()
        size = int(re.search(r"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
        async with asyncio.timeout(DEADLINE):
            return head, (await client.reader.readexactly(size)).decode()
    finally:
        await client.close()


async def try_to_join(server: Serving, room: str) -> tuple[RawClient, str]:
    """Ask for a websocket; return the status."""
    client = await RawClient.connect(server.port)
    client.send(upgrade(f"/chat/{room}"))
    return client, (await client.read_head()).split(" ")[1]


@asynccontextmanager
async def closing() -> AsyncIterator[list[RawClient]]:
    clients: list[RawClient] = []
    try:
        yield clients
    finally:
        for client in clients:
            client.cut()
        for client in clients:
            await client.close()


async def fill_with_websockets(server: Serving, clients: list[RawClient]) -> None:
    """Join one room until the server refuses."""
    for _ in range(LIMIT):
        client, status = await try_to_join(server, "lobby")
        if status != "101":
            assert status == "503"
            await client.close()
            return
        clients.append(client)
    raise AssertionError("the server took every websocket")


async def check_surfaces(server: Serving, folder: Path) -> None:
    """Check that probes and operators are served."""
    async with await RawClient.connect(folder / "admin.sock") as operator:
        operator.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert " 200 " in await operator.read_head()
    assert (await get(server, "/health"))[1] == '{"status":"ok"}'
    assert '"status":"ready"' in (await get(server, "/ready"))[1]
    status = await asyncio.to_thread(scalesocket_process, "status", "site.toml", "--format", "json", cwd=folder)
    assert status.code == 0, status.err
    assert json.loads(status.out)


async def test_websockets_leave_descriptors_for_probes_and_operators(server: Serving, tmp_path: Path) -> None:
    async with closing() as clients:
        await fill_with_websockets(server, clients)
        assert count_descriptors(server) > LIMIT - 40
        await until(lambda: count_descriptors(server) <= LIMIT - 32)

        await check_surfaces(server, tmp_path)

        refused, status = await try_to_join(server, "lobby")
        assert status == "503"
        await refused.close()
        assert 'scalesocket_refusals_total{app="",reason="descriptors"} 2.0' in (await get(server, "/metrics"))[1]
        server.wait_output("file descriptors run out")

        await clients.pop().close()
        async with asyncio.timeout(DEADLINE):
            while (joined := await try_to_join(server, "lobby"))[1] != "101":
                await joined[0].close()
        clients.append(joined[0])
    assert "Traceback" not in server.output


async def test_silent_connections_keep_nobody_out_and_cost_no_cpu(server: Serving, tmp_path: Path) -> None:
    async with closing() as clients:
        await fill_with_websockets(server, clients)
        clients += [await RawClient.connect(server.port) for _ in range(3 * LIMIT)]

        await check_surfaces(server, tmp_path)

        assert count_descriptors(server) <= LIMIT - 4
        before = cpu_time(server)
        await asyncio.sleep(0.5)
        assert cpu_time(server) - before < 0.2

    await until(lambda: count_descriptors(server) < LIMIT // 2)
    client, status = await try_to_join(server, "another")
    assert status == "101"
    await client.close()
    assert "Traceback" not in server.output


async def test_a_connection_of_the_reserve_gets_one_response(server: Serving) -> None:
    async with closing() as clients:
        await fill_with_websockets(server, clients)

        head, _ = await get(server, "/health")

        assert "connection: close" in head.lower()


async def test_rooms_leave_descriptors_for_probes_and_operators(server: Serving, tmp_path: Path) -> None:
    async with closing() as clients:
        spare, _ = await try_to_join(server, "0")
        clients.append(spare)
        for number in range(LIMIT):
            client, status = await try_to_join(server, f"{number}")
            clients.append(client)
            if status == "503":  # not even the connection got a descriptor: give it one
                await spare.close()
                await until(lambda: count_descriptors(server) < LIMIT - 32)
                continue
            client.say("hello")
            frame = await client.read_frame()
            if frame.opcode == CLOSE:
                break
        assert frame.payload == close_payload(1011, "cannot start 'cat': the server has too many open files")

        await check_surfaces(server, tmp_path)
        assert "<h1>hello" in (await get(server, "/chat/"))[1]

        for client in clients[1:20]:
            await client.close()
        await until(lambda: count_descriptors(server) < LIMIT - 64)
        client, _ = await try_to_join(server, "another")
        clients.append(client)
        client.say("hello")
        await client.hear("hello")
    assert "Traceback" not in server.output
