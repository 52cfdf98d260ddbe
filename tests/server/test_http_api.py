"""Health, readiness, metrics, the rooms API and the list of apps, over a gateway with real rooms."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NoReturn

import anyio
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from scalesocket.config.model import App
from scalesocket.server.http import scrape
from tests.server.general import General, make_site, open_general

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


CHAT = App(name="chat", command=["cat"], origins=["*"])
JSON = App(name="json", command=["cat"], routing="json", join_message='{"_meta": true, "bar": 123}')
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.fixture
async def general() -> AsyncIterator[General]:
    async with open_general(CHAT, JSON) as general:
        yield general


async def wait_metadata(general: General, path: str, wanted: object) -> None:
    with anyio.fail_after(5):
        while (await general.http.get(path)).json() != wanted:  # noqa: ASYNC110 - it is another process that does it
            await anyio.sleep(0.01)


# --- Probes


async def test_health_is_ok(general: General) -> None:
    answer = await general.http.get("/health")

    assert (answer.status_code, answer.text) == (200, '{"status":"ok"}')
    assert answer.headers["content-type"] == "application/json"


async def test_a_running_site_is_ready(general: General) -> None:
    answer = await general.http.get("/ready")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "draining": False, "generation": 1, "last_error": None}


async def test_a_draining_site_is_healthy_but_not_ready(general: General) -> None:
    await general.gateway.drain()

    ready, health = await general.http.get("/ready"), await general.http.get("/health")

    assert (ready.status_code, ready.json()["draining"]) == (503, True)
    assert health.status_code == 200


# --- Metrics


async def test_readiness_does_not_visit_every_room(general: General, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(general.gateway, "status", ask)

    assert (await general.http.get("/ready")).status_code == 200


async def test_one_scrape_is_rendered_at_a_time(general: General, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, most = threading.Semaphore(0), 0

    def expose(*_: object, **__: object) -> bytes:
        nonlocal most
        busy.release()
        most = max(most, busy._value)
        time.sleep(0.05)
        busy.acquire()
        return b""

    monkeypatch.setattr(scrape, "expose", expose)
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(general.http.get, "/metrics")

    assert most == 1


# What Prometheus 3 sends.
SCRAPER = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
FORMS = ("text/html", "text/plain", "application/json")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        (SCRAPER, OPENMETRICS, parse_openmetrics),
        ("application/openmetrics-text", OPENMETRICS, parse_openmetrics),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS, parse_openmetrics),
        (BROWSER, TEXT, parse_text),
        ("*/*", TEXT, parse_text),
        ("", TEXT, parse_text),
        ("application/openmetrics-text;version=0.0.1", TEXT, parse_text),
        ("application/openmetrics-text;q=0, text/plain", TEXT, parse_text),
        ("application/openmetrics-text;q=0.1, text/plain", TEXT, parse_text),
    ],
)
async def test_metrics_are_text_unless_openmetrics_is_requested(
    general: General, accept: str, content_type: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    async with await general.join("/chat/lobby"):
        answer = await general.http.get("/metrics", headers={"Accept": accept})

    samples = {
        (sample.name, sample.labels.get("app")): sample.value for family in parse(answer.text) for sample in family.samples
    }
    assert (answer.headers["content-type"], answer.headers["vary"]) == (content_type, "Accept")
    assert answer.text.endswith("# EOF\n") == (content_type == OPENMETRICS)
    assert samples["scalesocket_websocket_connections_total", "chat"] == 1
    assert samples["scalesocket_websocket_connections_open", "chat"] == 1


async def test_metrics_by_room_exist_while_the_room_does() -> None:
    async with open_general(CHAT, metrics_rooms=True) as general:
        async with await general.join("/chat/lobby"):
            during = (await general.http.get("/metrics")).text
        await wait_metadata(general, "/chat/api/rooms/", [])
        after = (await general.http.get("/metrics")).text

    assert 'scalesocket_websocket_connections_open{app="chat",room="lobby"} 1.0' in during
    assert "lobby" not in after


async def test_an_edit_can_switch_metrics_and_api_on() -> None:
    paths = ("/metrics", "/api/apps/", "/chat/api/rooms/")

    async with open_general(CHAT, metrics=False, api=False) as general:
        before = [(await general.http.get(path)).status_code for path in paths]
        general.gateway.apply(make_site(CHAT))
        after = [(await general.http.get(path)).status_code for path in paths]

    assert before == [404, 404, 404]
    assert after == [200, 200, 200]


async def test_metrics_and_api_for_the_admin_listener_are_not_public() -> None:
    paths = ("/metrics", "/api/apps/", "/chat/api/rooms/", "/chat/api/lobby/")

    async with open_general(CHAT, metrics="admin", api="admin") as general, await general.join("/chat/lobby"):
        answers = [(await general.http.get(path)).status_code for path in paths]
        front = await general.http.get("/", headers={"Accept": "application/json"})
        page = await general.http.get("/")

    assert answers == [404] * len(paths)
    assert front.json() == [{"app": "chat", "page": None, "websocket": front.json()[0]["websocket"]}]
    assert "/metrics" not in page.text
    assert "/api/apps/" not in page.text


async def test_rooms_that_are_not_listed_are_nowhere_in_public() -> None:
    hidden = CHAT.model_copy(update={"name": "hidden", "listed": False})

    async with (
        open_general(CHAT, hidden, metrics_rooms=True) as general,
        await general.join("/hidden/vault"),
        await general.join("/chat/lobby"),
    ):
        rooms = [await general.http.get(f"/hidden/api/{path}") for path in ("rooms/", "vault/", "vault/connections")]
        front = [await general.http.get(path, headers={"Accept": form}) for path in ("/", "/hidden/") for form in FORMS]
        metrics = await general.http.get("/metrics")
        apps = await general.http.get("/api/apps/")
        general.gateway.apply(make_site(CHAT, hidden.model_copy(update={"listed": True})))
        after = await general.http.get("/hidden/api/rooms/")

    assert [answer.status_code for answer in rooms] == [404] * 3
    assert not any("vault" in answer.text for answer in (*front, metrics, apps))
    assert any("lobby" in answer.text for answer in front)
    counts = [(app["name"], app["rooms"], app["connections"]) for app in apps.json()["apps"]]
    assert counts == [("chat", 1, 1), ("hidden", None, None)]
    assert 'scalesocket_websocket_connections_open{app="hidden",room=""} 1.0' in metrics.text
    assert after.json()[0]["name"] == "vault"


# --- Rooms


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_rooms_of_an_app_are_listed(general: General, slash: str) -> None:
    async with await general.join("/json/foo"):
        await wait_metadata(general, "/json/api/foo/metadata", {"bar": 123})

        answer = await general.http.get(f"/json/api/rooms{slash}")

    assert answer.text == '[{"name":"foo","connections":1,"metadata":{"bar":123}}]'


async def test_an_escaped_path_is_the_same_path(general: General) -> None:
    async with await general.join("/ch%61t/foo"):
        for target in (b"/ch%61t/api/rooms/", b"/chat/%61pi/ro%6Fms", b"/chat/api/f%6Fo/connections", b"http://a/ch%61t/api/foo"):
            status, body = await general.get_raw(target)
            assert (status, b"1" in body) == (200, True), target
        assert [(await general.get_raw(target))[0] for target in (b"/he%61lth", b"/%6detrics", b"/%61pi/apps/")] == [
            200,
            200,
            200,
        ]


@pytest.mark.parametrize("target", [b"/chat%2Fapi/rooms/", b"/chat/api%2frooms/", b"/api%2Fapps/", b"http://a/chat%2Fapi/rooms/"])
async def test_an_escaped_slash_does_not_separate(general: General, target: bytes) -> None:
    assert (await general.get_raw(target))[0] == 404


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_room_is_described(general: General, slash: str) -> None:
    async with await general.join("/chat/foo"), await general.join("/chat/foo"):
        room = await general.http.get(f"/chat/api/foo{slash}")
        connections = await general.http.get(f"/chat/api/foo/connections{slash}")
        metadata = await general.http.get(f"/chat/api/foo/metadata{slash}")

    assert room.json() == {"name": "foo", "connections": 2, "metadata": None}
    assert connections.text == "2"
    assert metadata.text == "null"


async def test_the_api_of_the_app_at_the_root_is_at_the_root() -> None:
    async with open_general(App(name="chat", command=["cat"], mount="/")) as general, await general.join("/foo"):
        rooms = await general.http.get("/api/rooms/")
        connections = await general.http.get("/api/foo/connections")

    assert rooms.json() == [{"name": "foo", "connections": 1, "metadata": None}]
    assert connections.text == "1"


async def test_a_room_that_is_not_open_is_not_found(general: General) -> None:
    paths = ("/chat/api/nobody", "/chat/api/nobody/connections", "/nobody/api/rooms/", "/api/rooms/", "/chat/api/")

    answers = [await general.http.get(path) for path in paths]

    assert [answer.status_code for answer in answers] == [404] * len(paths)
    assert answers[0].json() == {"error": "not found"}


# --- Apps


async def test_the_apps_are_listed(general: General) -> None:
    async with await general.join("/chat/foo"):
        answer = (await general.http.get("/api/apps/")).json()

    assert (answer["generation"], answer["last_error"], answer["connections"]) == (1, None, 1)
    chat, json = answer["apps"]
    assert (chat["name"], chat["mount"], chat["rooms"], chat["connections"]) == ("chat", "/chat", 1, 1)
    assert (json["name"], json["rooms"], json["connections"]) == ("json", 0, 0)


async def test_the_list_of_apps_names_programs_and_addresses_but_no_arguments() -> None:
    secretive = App(name="secretive", command=["cat", "--token", "s3cret"])
    remote = App(name="remote", tcp="127.0.0.1:4000")

    async with open_general(secretive, remote) as general:
        answer = await general.http.get("/api/apps/")

    assert [app["target"] for app in answer.json()["apps"]] == ["cat", "tcp 127.0.0.1:4000"]
    assert "s3cret" not in answer.text


async def test_the_front_page_lists_the_apps(general: General) -> None:
    answer = await general.http.get("/")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "/chat/ROOM" in answer.text
    assert "/json/ROOM" in answer.text


# --- Refusals


async def test_a_plain_request_for_a_room_is_404(general: General) -> None:
    answer = await general.http.get("/chat/lobby")

    assert answer.status_code == 404
    assert "websocket" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/chat/api/rooms/", "/chat/"])
async def test_other_methods_are_not_allowed(general: General, path: str) -> None:
    answer = await general.http.post(path)

    assert (answer.status_code, answer.json()) == (405, {"error": "method not allowed (use GET or HEAD)"})
    assert "GET" in answer.headers["allow"]


async def test_a_long_body_is_refused(general: General) -> None:
    answer = await general.ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"error":"request entity too large (no path takes a body; up to 16384 bytes are ignored)"}')


async def test_a_short_body_is_read_and_dropped(general: General) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 100

    for content in (b"x" * 1000, chunks()):
        answer = await general.http.request("GET", "/health", content=content)
        assert answer.status_code == 200
    assert general.connections == 1


TWICE = b"GET %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%b"
SMUGGLED = b"GET /chat/api/rooms/ HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("path", [b"/health", b"/nowhere", b"/chat/one", b"/", b"http://localhost/health"])
async def test_a_request_with_two_lengths_is_answered_and_the_connection_closed(general: General, path: bytes) -> None:
    for body in (b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"):
        answer = await general.ask(TWICE % (path, len(body + SMUGGLED), body) + SMUGGLED)

        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"\r\nconnection: close\r\n" in answer.lower()


async def test_a_request_with_one_length_keeps_the_connection(general: General) -> None:
    once = b"GET /health HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
    bodies = (once % b"Content-Length: 5\r\n" + b"hello", once % b"Transfer-Encoding: chunked\r\n" + b"5\r\nhello\r\n0\r\n\r\n")

    answer = await general.ask(b"".join(bodies) + once % b"Connection: close\r\n")

    assert answer.count(b"HTTP/1.1 200 ") == 3


async def test_a_long_head_is_refused(general: General) -> None:
    answer = await general.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_an_invalid_head_is_refused(general: General) -> None:
    answer = await general.ask(b"nonsense\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_connection_closed_by_its_peer_after_a_request_is_closed_at_once(general: General) -> None:
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", general.playground.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.close()

    with anyio.fail_after(5):  # an idle connection would stay open for 15 s
        await general.wait_no_connections()


async def test_a_peer_that_ends_its_side_gets_all_responses(general: General) -> None:
    with anyio.fail_after(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", general.playground.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        writer.write_eof()
        answers = await reader.read()
        writer.close()

    assert answers.count(b'{"status":"ok"}') == 3
