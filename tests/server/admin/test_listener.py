"""The admin surface on its own listener: who is answered, what is served, and edits of its address."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import anyio
import httpx
import pytest
import websockets
from websockets.asyncio.client import connect

from scalesocket.server.addresses import ListenError
from scalesocket.server.admin import failures, guard
from scalesocket.server.admin.listener import MAX_CONNECTIONS
from tests.conftest import capture_all_logs
from tests.playing import DEADLINE
from tests.server.admin.conftest import BEARER, CHAT, TOKEN, AdminSite, open_admin_site, server_with, socket_at

pytestmark = pytest.mark.anyio

EVERYWHERE = ("/health", "/ready", "/metrics", "/api/apps/", "/chat/api/rooms/", "/hidden/api/rooms/")
HERE = ("/admin/status", "/admin/rooms", "/api/openapi.json")


@pytest.fixture
async def anonymous(admin: AdminSite) -> AsyncIterator[httpx.AsyncClient]:
    """A client without the token."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{admin.port}") as http:
        yield http


# --- What is served


async def test_everything_is_served_with_the_token(admin: AdminSite) -> None:
    answers = {path: (await admin.http.get(path)).status_code for path in (*EVERYWHERE, *HERE)}

    assert set(answers.values()) == {200}


async def test_nothing_is_served_without_it(anonymous: httpx.AsyncClient) -> None:
    for path in (*EVERYWHERE, *HERE, "/", "/nowhere"):
        answer = await anonymous.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == 'Bearer realm="scalesocket admin"'
        assert answer.json().keys() == {"error"}


async def test_the_public_listener_serves_nothing_of_it(admin: AdminSite) -> None:
    for path in HERE:
        assert (await admin.general.http.get(path, headers=BEARER)).status_code == 404, path
    assert (await admin.general.http.post("/admin/reload", headers=BEARER)).status_code in (404, 405)


async def test_it_has_neither_pages_nor_websockets(admin: AdminSite) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{admin.port}/chat/lobby", additional_headers=BEARER, proxy=None)

    assert refused.value.response.status_code == 404
    assert [(await admin.http.get(path)).status_code for path in ("/", "/chat/")] == [404, 404]
    assert admin.general.gateway.connections == 0


async def test_rooms_that_are_not_listed_are_shown(admin: AdminSite) -> None:
    async with await admin.general.join("/hidden/vault"):
        rooms = (await admin.http.get("/hidden/api/rooms/")).json()
        metrics = (await admin.http.get("/metrics")).text
        apps = (await admin.http.get("/api/apps/")).json()["apps"]

    assert rooms == [{"name": "vault", "connections": 1, "metadata": None}]
    assert 'scalesocket_websocket_connections_open{app="hidden",room="vault"} 1.0' in metrics
    assert [(app["name"], app["connections"]) for app in apps] == [("chat", 0), ("hidden", 1)]


async def test_the_last_exit_is_shown_here_and_not_in_public() -> None:
    crash = CHAT.model_copy(update={"command": ("sh", "-c", "echo hunter2 >&2; exit 3")})
    async with open_admin_site(crash) as admin:
        player = await admin.general.join("/chat/lobby")
        await player.wait_closed()
        await admin.general.playground.wait_no_rooms()
        (app,) = (await admin.http.get("/api/apps/")).json()["apps"]
        public = [(await admin.general.http.get(path)).text for path in ("/api/apps/", "/metrics", "/", "/chat/api/rooms/")]

    assert app["last_exit"] | {"at": 0} == {"how": "3", "at": 0, "room": "lobby", "line": "hunter2"}
    assert not [text for text in public if "hunter2" in text]


async def test_it_answers_while_the_public_listener_is_full() -> None:
    async with open_admin_site(max_connections=1) as admin:
        idle = [await asyncio.open_connection("127.0.0.1", admin.general.playground.port) for _ in range(4)]

        assert (await admin.http.get("/admin/status")).status_code == 200
        for _, writer in idle:
            writer.close()


async def test_it_answers_while_the_site_drains(admin: AdminSite) -> None:
    await admin.general.gateway.drain()

    assert (await admin.http.get("/ready")).status_code == 503
    assert (await admin.http.get("/admin/status")).json()["is_draining"] is True


async def test_silent_connections_are_bounded_and_do_not_lock_out_the_operator(admin: AdminSite) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", admin.port) for _ in range(MAX_CONNECTIONS)]

    answer = await admin.http.get("/health")

    assert answer.status_code == 200
    async with asyncio.timeout(10):
        with suppress(ConnectionResetError):
            assert await silent[0][0].read() == b""
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
        b"POST /admin/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        b"hello\n",
    ],
    ids=["half a head", "an HTTP/2 preface", "a request without the token", "garbage"],
)
async def test_peers_without_the_token_do_not_lock_out_the_operator(admin: AdminSite, sent: bytes) -> None:
    request = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{admin.port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    async with AsyncExitStack() as held, asyncio.timeout(10):
        known_reader, known_writer = await asyncio.open_connection("127.0.0.1", admin.port)
        held.callback(known_writer.close)
        known_writer.write(request)
        assert (await known_reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        for _ in range(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
            held.callback(writer.close)
            writer.write(sent)
            if sent.startswith(b"PRI"):
                with suppress(ConnectionResetError):
                    await reader.read(1)  # the server has taken the preface

        assert (await admin.http.get("/health", timeout=1)).status_code == 200
        known_writer.write(request)
        assert b"HTTP/1.1 200" in await known_reader.readuntil(b"}")


# --- Who is answered


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
    ],
)
async def test_a_wrong_token_is_401(anonymous: httpx.AsyncClient, header: str) -> None:
    answer = await anonymous.get("/health", headers={"Authorization": header})

    assert answer.status_code == 401


async def test_the_scheme_may_be_in_any_case(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.get("/health", headers={"Authorization": f"bearer {TOKEN}"})).status_code == 200


async def test_many_wrong_tokens_are_slowed_down_and_then_refused(
    anonymous: httpx.AsyncClient, admin: AdminSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []

    async def sleep(delay: float) -> None:
        delays.append(delay)

    monkeypatch.setattr(guard.asyncio, "sleep", sleep)
    wrong = {"Authorization": "Bearer wrong-token-canary"}
    with capture_all_logs() as events:
        answers = [await anonymous.get("/health", headers=wrong) for _ in range(failures.LIMIT + 1)]

    assert [answer.status_code for answer in answers] == [401] * failures.LIMIT + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= failures.WINDOW
    slowed = [delay for delay in delays if delay > 0]
    assert slowed == pytest.approx([failures.STEP * number for number in range(1, failures.LIMIT - failures.FREE + 1)])
    assert (await anonymous.get("/health")).status_code == 429
    assert (await admin.http.get("/health")).status_code == 200  # from the same address, with the right token
    assert len([event for event in events if event["event"] == "wrong admin token"]) == failures.LIMIT
    assert "wrong-token-canary" not in str(events)


async def test_a_bounded_number_of_answers_is_delayed(anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_DELAYED", 3)
    wrong, delayed, go_on = {"Authorization": "Bearer wrong"}, anyio.Semaphore(0), anyio.Event()

    async def sleep(_: float) -> None:
        delayed.release()
        await go_on.wait()

    for _ in range(failures.FREE):
        assert (await anonymous.get("/health", headers=wrong)).status_code == 401
    monkeypatch.setattr(guard, "asyncio", SimpleNamespace(sleep=sleep))
    late: list[int] = []

    async def get() -> None:
        late.append((await anonymous.get("/health", headers=wrong)).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(get)
        with anyio.fail_after(DEADLINE):
            for _ in range(3):
                await delayed.acquire()
        assert (await anonymous.get("/health", headers=wrong)).status_code == 429
        go_on.set()

    assert late == [401] * 3
    assert (await anonymous.get("/health", headers=wrong)).status_code == 401  # the places are free again


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_page_of_another_site_is_refused_even_with_the_token(admin: AdminSite, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/health"), ("POST", "/admin/reload"), ("OPTIONS", "/admin/reload")):
        answer = await admin.http.request(method, path, headers=headers)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_page_whose_name_was_pointed_here_is_refused(admin: AdminSite) -> None:
    headers = {
        "Host": f"evil.example:{admin.port}",
        "Origin": f"http://evil.example:{admin.port}",
        "Sec-Fetch-Site": "same-origin",
    }

    assert (await admin.http.get("/health", headers=headers)).status_code == 421


async def test_the_hosts_of_the_public_site_are_not_required() -> None:
    async with open_admin_site(hosts=["play.example"]) as admin:
        assert (await admin.http.get("/health")).status_code == 200


# --- A unix socket


async def test_a_unix_socket_is_for_its_owner_and_needs_no_token(tmp_path: Path) -> None:
    async with open_admin_site(admin=socket_at(tmp_path)) as admin:
        file = tmp_path / "admin.sock"

        assert (await admin.http.get("/admin/status")).status_code == 200
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()


# --- Edits


async def test_an_edit_moves_it_to_another_address(admin: AdminSite, tmp_path: Path) -> None:
    old = admin.port

    await admin.edit(server_with(socket_at(tmp_path)))

    assert admin.addresses == [f"unix:{tmp_path}/admin.sock"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", old)


async def test_an_edit_that_needs_no_token_does_not_open_connections_from_before(admin: AdminSite, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{admin.port}") as http:
        assert (await http.get("/health", headers=BEARER)).status_code == 200

        await admin.edit(server_with(socket_at(tmp_path)))

        assert (await http.get("/health")).status_code == 401


async def test_an_edit_of_the_token_applies_to_the_next_request(admin: AdminSite) -> None:
    address = f"127.0.0.1:{admin.port}"

    await admin.edit(server_with({"bind": address, "token": "another-" + TOKEN}))

    assert (await admin.http.get("/health")).status_code == 401
    assert (await admin.http.get("/health", headers={"Authorization": f"Bearer another-{TOKEN}"})).status_code == 200


async def test_an_edit_can_close_and_open_it(admin: AdminSite) -> None:
    old = admin.port
    assert (await admin.http.get("/health")).status_code == 200  # over a connection that stays open

    await admin.edit(server_with(None))

    assert admin.addresses == []
    assert (await admin.http.get("/health")).status_code == 403
    await admin.edit(server_with({"bind": f"127.0.0.1:{old}", "token": TOKEN}))
    assert (await admin.http.get("/health")).status_code == 200


async def test_an_address_in_use_is_refused_and_the_old_one_serves_on(admin: AdminSite) -> None:
    taken = admin.general.playground.port

    with pytest.raises(ListenError, match=f"server.admin.bind: can't listen at 127.0.0.1:{taken}: address already in use"):
        await admin.edit(server_with({"bind": f"127.0.0.1:{taken}", "token": TOKEN}))

    assert (await admin.http.get("/health")).status_code == 200
