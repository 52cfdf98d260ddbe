"""The landing pages: the front page, and the page of an app."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest

from scalesocket.config.model import App
from scalesocket.overview import RoomsSummary
from scalesocket.server.http.landing import format_app
from scalesocket.server.http.page import render_app, render_front
from scalesocket.server.http.views import AppView
from tests.server.general import General, make_site, open_general

pytestmark = pytest.mark.anyio

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
HOSTILE = "\"'><img src=x onerror=alert(1)></script>&amp;"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def general(tmp_path: Path) -> AsyncIterator[General]:
    (tmp_path / "index.html").write_text("a page")
    chat = App(name="chat", command=["cat"], room_pattern=".+")
    async with open_general(
        chat, App(name="docs", static=tmp_path), App(name="game", command=["cat"], static=tmp_path)
    ) as general:
        yield general


# --- The front page


async def test_the_front_page_shows_apps_links_rooms_and_how_to_connect(general: General) -> None:
    async with await general.join("/chat/lobby"), await general.join("/chat/lobby"):
        answer = await general.http.get("/")

    host = f"127.0.0.1:{general.playground.port}"
    text = visible(answer.text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "3 apps · 1 room · 2 clients" in text
    assert "lobby 2" in text
    assert re.findall(r'class="button" href="([^"]+)"', answer.text) == ["/docs/", "/game/"]
    for way in (f"ws://{host}/chat/ROOM", f'new WebSocket("ws://{host}/chat/ROOM")', f"websocat ws://{host}/game/ROOM"):
        assert way in text
    assert f"wscat --connect ws://{host}/game/ROOM" in text


async def test_an_app_without_rooms_has_the_badge_pages(general: General) -> None:
    answer = await general.http.get("/")

    card = next(card for card in answer.text.split("<article") if "/docs/" in card)
    assert "docs pages http://127.0.0.1" in visible(f"<article{card}")
    assert "ws://" not in card


@pytest.mark.parametrize(
    ("headers", "socket"),
    [
        ({"Host": "play.example"}, "ws://play.example/chat/ROOM"),
        ({"Host": "[::1]:9000"}, "ws://[::1]:9000/chat/ROOM"),
        ({"Host": "play.example", "X-Forwarded-Proto": "https"}, "ws://play.example/chat/ROOM"),
    ],
)
async def test_urls_have_the_host_of_the_request(general: General, headers: dict[str, str], socket: str) -> None:
    answer = await general.http.get("/chat/", headers=headers)

    assert socket in answer.text


async def test_behind_a_trusted_proxy_urls_have_its_scheme() -> None:
    async with open_general(App(name="chat", command=["cat"]), trusted_proxies=["127.0.0.0/8"]) as general:
        answer = await general.http.get("/chat/", headers={"Host": "play.example", "X-Forwarded-Proto": "https"})

    assert "wss://play.example/chat/ROOM" in answer.text


async def test_names_of_rooms_are_escaped(general: General) -> None:
    async with await general.join(f"/chat/{quote(HOSTILE, safe='')}"):
        front = await general.http.get("/", headers=BROWSER)
        page = await general.http.get("/chat/", headers=BROWSER)

    for answer in (front, page):
        assert "<img" not in answer.text
        assert answer.text.count("</script>") == 1
        assert HOSTILE in visible(answer.text)


async def test_the_pages_load_nothing_and_run_only_their_own_script(general: General) -> None:
    for path in ("/", "/chat/"):
        answer = await general.http.get(path, headers=BROWSER)

        policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        for tag, rule in (("style", "style-src"), ("script", "script-src")):
            inside = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
            assert [policy[rule]] == [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in inside]
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert not re.findall(r'(?:src|href)="(?!/|data:)', answer.text)
        assert not re.findall(r'<[^>]+ (?:style|on\w+)="', answer.text)


async def test_without_the_api_no_rooms_and_no_counts_are_shown() -> None:
    async with (
        open_general(App(name="chat", command=["cat"]), api=False, metrics=False) as general,
        await general.join("/chat/secret"),
    ):
        answers = [
            await general.http.get(path, headers={"Accept": accept})
            for path in ("/", "/chat/")
            for accept in ("text/html", "text/plain", "application/json")
        ]

    for answer in answers:
        assert answer.status_code == 200
        assert "/chat/ROOM" in answer.text
        assert "secret" not in answer.text
        assert not re.search(r"\d+ (client|room)|connections|/api/|/metrics", answer.text.replace("--connect", ""))


async def test_an_edit_shows_at_once(general: General) -> None:
    general.gateway.apply(make_site(App(name="later", command=["cat"])))

    answer = await general.http.get("/")

    assert "/later/ROOM" in answer.text
    assert "/chat/ROOM" not in answer.text


async def test_an_app_at_the_root_without_a_page_is_on_the_front_page(tmp_path: Path) -> None:
    async with open_general(App(name="chat", command=["cat"], mount="/"), App(name="docs", static=tmp_path)) as general:
        port = general.playground.port
        answer = await general.http.get("/")

    assert f"ws://127.0.0.1:{port}/ROOM" in answer.text
    assert 'href="/docs/"' in answer.text


# --- The page of an app


@pytest.mark.parametrize("path", ["/chat/", "/chat"])
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (BROWSER["Accept"], "text/html; charset=utf-8"),
        ("*/*", "text/plain; charset=utf-8"),
        ("", "text/plain; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/json, text/html;q=0.9", "application/json"),
    ],
)
async def test_an_app_without_a_page_has_a_landing_page(general: General, path: str, accept: str, content_type: str) -> None:
    async with await general.join("/chat/lobby"):
        answer = await general.http.get(path, headers={"Accept": accept})

    socket = f"ws://127.0.0.1:{general.playground.port}/chat/ROOM"
    assert (answer.status_code, answer.headers["content-type"], answer.headers["vary"]) == (200, content_type, "Accept")
    if content_type == "application/json":
        assert answer.json() == {"app": "chat", "page": None, "websocket": socket, "rooms": 1, "connections": 1}
    else:
        assert socket in visible(answer.text)
        assert re.search(r"lobby\s+1", visible(answer.text))


async def test_an_app_whose_folder_has_no_index_has_a_landing_page(tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    async with open_general(App(name="game", command=["cat"], static=tmp_path), App(name="docs", static=tmp_path)) as general:
        game, docs = await general.http.get("/game/"), await general.http.get("/docs/")

    assert (game.status_code, docs.status_code) == (200, 404)
    assert "/game/ROOM" in game.text


async def test_a_file_replaces_the_landing_page(general: General) -> None:
    assert (await general.http.get("/game/", headers=BROWSER)).text == "a page"


def test_an_ipv6_address_is_quoted_for_the_shell() -> None:
    app = view_of(socket="ws://[::1]:9000/chat/ROOM")

    assert app.ways()["websocat"] == "websocat 'ws://[::1]:9000/chat/ROOM'"


def test_names_of_rooms_cannot_move_a_terminals_cursor() -> None:
    app = view_of(rooms=RoomsSummary(number=1, clients=1, shown=(("\x1b[2Jfake\n", 1),)))

    assert "\x1b" not in format_app(app)
    assert format_app(app).count("\n") == 6


def test_some_of_many_rooms_are_listed_and_the_rest_counted() -> None:
    app = view_of(rooms=RoomsSummary(number=5000, clients=9000, shown=(("a", 70), ("b", 60))))

    for text in (visible(render_front([app], [])), visible(render_app(app, [])), format_app(app)):
        assert re.search(r"a\s+70\s+b\s+60\s+and 4998 more", text)


def view_of(*, socket: str = "ws://localhost/chat/ROOM", rooms: RoomsSummary | None = None) -> AppView:
    return AppView(name="chat", page=None, path="/chat/", url="http://localhost/chat/", socket=socket, rooms=rooms)


def visible(page: str) -> str:
    """The visible text of a page, with single spaces; plain text is returned unchanged."""
    without_code = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    text = re.sub(r"<(/?)(\w+)[^>]*>", lambda tag: "" if tag[2] in ("i", "wbr", "code") else " ", without_code)
    for entity, character in {"&lt;": "<", "&gt;": ">", "&#34;": '"', "&#39;": "'", "&amp;": "&"}.items():
        text = text.replace(entity, character)
    return re.sub(r"\s+", " ", text) if "<html" in page or page.startswith("<article") else text
