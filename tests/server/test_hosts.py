"""The hosts that a server serves, on both lanes: DNS rebinding, `hosts`, and invalid Host headers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from scalesocket.config.model import Server
from tests.conftest import Serve
from tests.examples.browsing import CHROMIUM, FLAGS, NEEDS_CHROMIUM, SERVE
from tests.examples.listening import run_until_listening
from tests.playing import Playground, site_of
from tests.raw import PING, RawClient, upgrade
from tests.server.http2 import open_http2

pytestmark = pytest.mark.anyio

CAT: dict[str, Any] = {"command": ["cat"]}
PLAY = "https://play.example"
PAGES = ("/", "/chat/", "/chat/page.html", "/chat/api/rooms/", "/api/apps/", "/metrics", "/health", "/ready", "/nowhere")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


async def status_of(site: Playground, request: bytes, *, to: Path | int | None = None) -> int:
    """Send a request, on a connection of the site's lane or a new one; return the status of the response."""
    client = await RawClient.connect(await site.connect() if to is None else to)
    site.raw_clients.append(client)
    client.send(request)
    return int((await client.read_head()).split(" ")[1])


def get(path: str, *fields: str, host: str = "localhost") -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {host}", *fields, "", "")).encode()


# --- The loopback


async def test_a_page_that_rebinds_its_name_opens_no_websocket(serve: Serve) -> None:
    site = await serve(chat={**CAT, "origins": ["*"]})
    evil = f"evil.example:{site.port}"

    assert await status_of(site, upgrade("/chat/one", f"Origin: http://{evil}", host=evil)) == 421
    assert await status_of(site, upgrade("/chat/one", f"Origin: http://{evil}", host="evil.example.")) == 421
    assert await status_of(site, upgrade("/chat/one", f"Origin: http://{evil}", host=f"localhost:{site.port}")) == 101
    assert site.gateway.status().refusals == {"host": 2}


async def test_a_page_that_rebinds_its_name_reads_nothing(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("secret")
    site = await serve(chat={**CAT, "static": tmp_path})
    evil, good = f"evil.example:{site.port}", f"127.0.0.1:{site.port}"

    for mark in ("Accept-Language: en", f"Origin: http://{evil}", "Sec-Fetch-Site: same-origin"):
        assert [await status_of(site, get(page, mark, host=evil)) for page in PAGES] == [421] * len(PAGES)
        assert [await status_of(site, get(page, mark, host=good)) for page in PAGES] == [200] * 8 + [404]


async def test_a_proxy_on_the_same_machine_needs_no_configuration(serve: Serve) -> None:
    site = await serve(chat=CAT)
    fields = ("X-Forwarded-For: 192.0.2.1", f"Origin: {PLAY}", "Accept-Language: en")

    assert await status_of(site, upgrade("/chat/one", *fields, host="play.example")) == 101
    assert await status_of(site, get("/chat/api/rooms/", *fields, host="play.example")) == 200


@pytest.mark.parametrize("is_later", [False, True])
async def test_a_proxy_with_the_proxy_protocol_needs_no_configuration(serve_express: Serve, is_later: bool) -> None:
    site = await serve_express(Server.model_validate({"trusted_proxies": ["127.0.0.0/8"]}), chat=CAT)
    host = f"play.example:{site.port}"
    client = await RawClient.connect(site.port)
    site.raw_clients.append(client)

    client.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n")
    if is_later:
        client.send(get("/health", "Accept-Language: en", host=host))
        assert (await client.read_head()).startswith("HTTP/1.1 200 ")
        await client.reader.readexactly(len('{"status":"ok"}'))
    client.send(upgrade("/chat/one", f"Origin: http://{host}", host=host))

    assert (await client.read_head()).startswith("HTTP/1.1 101 ")


async def test_a_refused_host_is_logged_once_with_the_key_that_admits_it(serve: Serve) -> None:
    site = await serve(chat=CAT)

    for host in ("play.example", "PLAY.example.", "play.example:1234"):
        await status_of(site, upgrade("/chat/one", f"Origin: {PLAY}", host=host))
        await status_of(site, get("/", f"Origin: {PLAY}", host=host))

    [entry] = serve.logged("host refused")
    assert (entry["log_level"], entry["host"]) == ("warning", "play.example")
    assert 'hosts = ["localhost", "play.example"] in [server]' in entry["hint"]


async def test_many_refused_hosts_do_not_fill_the_log(serve_express: Serve) -> None:
    site = await serve_express(chat=CAT)

    for number in range(150):
        await status_of(site, upgrade("/chat/one", f"Origin: {PLAY}", host=f"{number}.example"))

    assert len(serve_express.logged("host refused")) == 100


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
async def test_a_wildcard_listener_is_protected_on_the_loopback(serve: Serve, bind: str) -> None:
    site = await serve(Server.model_validate({"bind": bind}), chat=CAT)

    assert await status_of(site, upgrade("/chat/one", f"Origin: {PLAY}", host="play.example")) == 421
    assert await status_of(site, get("/", f"Origin: {PLAY}", host="play.example")) == 421
    assert await status_of(site, upgrade("/chat/one", host="play.example")) == 101


async def test_a_unix_socket_is_not_a_loopback_listener(serve_express: Serve, tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    site = await serve_express(Server.model_validate({"bind": f"unix:{path}"}), chat=CAT)

    assert await status_of(site, upgrade("/chat/one", f"Origin: {PLAY}", host="play.example"), to=path) == 101
    assert await status_of(site, get("/", f"Origin: {PLAY}", host="play.example"), to=path) == 200


# --- Listed hosts


async def test_an_edit_of_hosts_applies_at_once(serve: Serve) -> None:
    site = await serve(chat={**CAT, "origins": ["*"]})
    requests = [
        make("/chat/one" if make is upgrade else "/health", "Accept-Language: en", host=host)
        for make in (upgrade, get)
        for host in ("play.example", "a.games.example:80", "localhost", "games.example")
    ]

    before = [await status_of(site, request) for request in requests]
    server = Server.model_validate({"bind": "127.0.0.1:0", "hosts": ["play.example", "*.games.example"]})
    keep_alive = [await site.connect() for _ in requests]
    site.gateway.apply(site_of({"chat": {**CAT, "origins": ["*"]}}, server))
    after = []
    for request, sock in zip(requests, keep_alive, strict=True):
        client = await RawClient.connect(sock)
        site.raw_clients.append(client)
        client.send(request)
        after.append(int((await client.read_head()).split(" ")[1]))

    assert before == [421, 421, 101, 421, 421, 421, 200, 421]
    assert after == [101, 101, 421, 421, 200, 200, 421, 421]


async def test_hosts_apply_over_http2_too(serve_express: Serve) -> None:
    site = await serve_express(Server.model_validate({"hosts": ["play.example"], "http2_websockets": True}), chat=CAT)

    async with open_http2(site.port) as client:
        for authority, page, websocket in (("play.example", 200, 200), ("evil.example", 421, 421), ("a@play.example", 400, 400)):
            (status, _), _ = await client.get("/health", authority=authority)
            assert status == page
            (status, _), _ = await client.open_websocket("/chat/one", authority=authority)
            assert status == websocket


async def test_a_page_that_rebinds_its_name_gets_nothing_over_http2(serve_express: Serve) -> None:
    site = await serve_express(Server(http2_websockets=True), chat=CAT)

    async with open_http2(site.port) as client:
        for authority, answer in (("evil.example", 421), ("localhost", 200)):
            (status, _), _ = await client.get("/health", ("accept-language", "en"), authority=authority)
            assert status == answer
            (status, _), _ = await client.open_websocket("/chat/one", ("origin", f"http://{authority}"), authority=authority)
            assert status == answer


# --- Invalid hosts


@pytest.mark.parametrize("host", ["a, b", "a@b", "a/b?x", "", "[::1", "a b"])
async def test_an_invalid_host_is_400(serve: Serve, host: str) -> None:
    site = await serve(chat=CAT)

    assert await status_of(site, upgrade("/chat/one", host=host)) == 400
    assert await status_of(site, get("/health", host=host)) == 400


async def test_no_host_and_two_hosts_are_400(serve: Serve) -> None:
    site = await serve(chat=CAT)

    for request in (upgrade("/chat/one", host="localhost"), get("/health")):
        assert await status_of(site, request.replace(b"Host: localhost\r\n", b"")) == 400
        assert await status_of(site, request.replace(b"Host: ", b"Host: localhost\r\nHost: ")) == 400


async def test_a_client_of_http_1_0_need_not_name_a_host(serve_express: Serve) -> None:
    site = await serve_express(chat=CAT)

    assert await status_of(site, b"GET /health HTTP/1.0\r\n\r\n") == 200


# --- Absolute targets


@pytest.mark.parametrize("scheme", ["ws", "wss", "http", "https", "WS"])
async def test_an_upgrade_may_have_an_absolute_target(serve: Serve, scheme: str) -> None:
    site = await serve(chat={**CAT, "routing": "json", "join_message": '{"q":#QUERY_X}'})
    client = await RawClient.connect(await site.connect())
    site.raw_clients.append(client)

    client.send(upgrade(f"{scheme}://localhost/ch%61t/one?x=y", host="localhost"))

    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    while (frame := await client.read_frame()).opcode == PING:
        pass
    assert frame.payload == b'{"q":"y"}'


async def test_the_authority_of_a_target_replaces_host(serve: Serve) -> None:
    site = await serve(Server.model_validate({"hosts": ["play.example", "localhost"]}), chat=CAT)

    for make, path, found in ((upgrade, "/chat/one", 101), (get, "/health", 200)):
        assert await status_of(site, make(f"http://play.example{path}", host="evil.example")) == found
        assert await status_of(site, make(f"http://evil.example{path}", host="play.example")) == 421
        assert await status_of(site, make(f"http://user@play.example{path}", host="play.example")) == 400
        assert await status_of(site, make(f"http://{path}", host="play.example")) == 400
        assert await status_of(site, make(f"http://play.example{path}", host="a, b")) == 400
        assert await status_of(site, make(f"ftp://play.example{path}", host="play.example")) == 400


async def test_an_origin_is_compared_with_the_authority_of_the_target(serve: Serve) -> None:
    site = await serve(chat=CAT)
    fields = ("Origin: http://localhost:1", "X-Forwarded-For: 192.0.2.1")

    assert await status_of(site, upgrade("ws://localhost:1/chat/one", *fields, host="localhost:2")) == 101
    assert await status_of(site, upgrade("ws://localhost:2/chat/one", *fields, host="localhost:1")) == 403


# --- Origins


@pytest.mark.parametrize("origin", ["ftp://{}", "chrome-extension://{}", "http://user@{}", "http://{}/", "null", ""])
async def test_origins_without_http_are_never_the_same_origin(serve: Serve, origin: str) -> None:
    site = await serve(chat=CAT, open={**CAT, "origins": ["*"]})
    host = f"localhost:{site.port}"

    assert await status_of(site, upgrade("/chat/one", f"Origin: {origin.format(host)}", host=host)) == 403
    assert await status_of(site, upgrade("/open/one", f"Origin: {origin.format(host)}", host=host)) == 101


# --- A real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium would ask its user first; other browsers do not. This test is about the server.
        args = [*FLAGS, "--host-resolver-rules=MAP evil.example 127.0.0.1", "--disable-features=LocalNetworkAccessChecks"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=args)


TRY_ALL = """async (address) => {
    const statuses = []
    for (const headers of [{}, {"X-Forwarded-For": "192.0.2.1", "Accept-Language": ""}])
        statuses.push((await fetch(`http://${address}/chat/api/rooms/`, {headers, referrerPolicy: "no-referrer"})).status)
    const socket = new WebSocket(`ws://${address}/chat/one`)
    statuses.push(await new Promise(resolve => socket.onopen = socket.onerror = event => resolve(event.type)))
    return statuses
}"""


@NEEDS_CHROMIUM
def test_dns_rebinding_in_a_browser_fails(browser: Browser, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[apps.chat]\ncommand = ["cat"]\n')
    with run_until_listening(*SERVE, str(site)) as address:
        port = address.rpartition(":")[2]
        answers = {}
        for host in ("evil.example", "localhost"):
            page = browser.new_page()
            page.route(f"http://{host}:{port}/before", lambda route: route.fulfill(body="", content_type="text/html"))
            page.goto(f"http://{host}:{port}/before")
            answers[host] = page.evaluate(TRY_ALL, f"{host}:{port}")
            page.close()

    assert answers == {"evil.example": [421, 421, "error"], "localhost": [200, 200, "open"]}
