"""Security headers of every HTTP response, and no version in any of them."""

from collections.abc import AsyncIterator
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from scalesocket import __version__
from scalesocket.config.model import App
from tests.raw import upgrade
from tests.server.general import General, open_general
from tests.server.http2 import open_http2

BROWSER = {"Accept": "text/html"}
PROGRAMS = ("python", "hypercorn", "quart", "werkzeug", "h11")
VERSIONS = {f"scalesocket/{__version__}", f'"{__version__}"', *(version(name) for name in PROGRAMS[1:])}


@pytest.fixture
async def general(tmp_path: Path) -> AsyncIterator[General]:
    (tmp_path / "index.html").write_text("<h1>game")
    apps = (App(name="chat", command=["cat"]), App(name="game", command=["cat"], static=tmp_path))
    async with open_general(*apps) as general:
        yield general


def check_own(headers: httpx.Headers) -> None:
    """Check the headers of a response of the server itself."""
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"


PATHS = ("/", "/chat/", "/health", "/ready", "/metrics", "/api/apps/", "/chat/api/rooms/", "/nowhere", "/chat/lobby", "/game")


@pytest.mark.parametrize("accept", [BROWSER, {"Accept": "application/json"}, {}])
@pytest.mark.parametrize("path", PATHS)
async def test_own_responses_have_security_headers_and_no_version(general: General, path: str, accept: dict[str, str]) -> None:
    answer = await general.http.get(path, headers=accept)

    check_own(answer.headers)
    assert "server" not in answer.headers
    assert not [version for version in VERSIONS if version in answer.text + str(answer.headers)]


@pytest.mark.parametrize("request_", [("POST", "/health"), ("GET", "/chat/%00")])
async def test_errors_have_them(general: General, request_: tuple[str, str]) -> None:
    check_own((await general.http.request(*request_)).headers)


UNUSABLE = {
    "no http": b"hello\n\n",
    "no tls": b"\x16\x03\x01\x00\x05hello",
    "unknown app": upgrade("/nowhere/one"),
    "bad upgrade": b"GET /chat/one HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
    "misdirected": b"GET /health HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n",
    "upgrade on the general lane": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + upgrade("/nowhere/one"),
}


@pytest.mark.parametrize("sent", UNUSABLE.values(), ids=UNUSABLE)
async def test_refusals_on_both_lanes_have_them(general: General, sent: bytes) -> None:
    head = (await general.ask(sent)).rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")[0].partition(b"\r\n")[2]

    check_own(httpx.Headers(HeaderParser().parsestr(head.decode()).items()))


async def test_an_error_of_hypercorn_itself_is_not_sniffed(general: General) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

    answer = (await general.ask(first + b"no request\r\n\r\n")).lower()

    error = answer.rpartition(b"http/1.1 ")[2]
    assert error.startswith(b"400")
    assert b"x-content-type-options: nosniff" in error
    assert b"referrer-policy: same-origin" in error
    assert b"server:" not in answer


async def test_responses_over_http2_have_them(general: General) -> None:
    async with open_http2(general.playground.port) as client:
        page = await client.get("/health")
        tunnel = await client.start("CONNECT", "/chat/one", (":protocol", "websocket"), is_ended=False).wait_status()

    assert (page[0][0], tunnel[0]) == (200, 501)
    check_own(httpx.Headers(page[0][1]))
    check_own(httpx.Headers(tunnel[1]))


# --- Files


async def test_a_file_has_no_policy_for_its_content(general: General) -> None:
    answer = await general.http.get("/game/")

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert "content-security-policy" not in answer.headers


async def test_static_headers_replace_those_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "index.html").touch()
    ours = {"Referrer-Policy": "no-referrer", "Content-Security-Policy": "frame-ancestors 'self'"}
    async with open_general(App(name="game", command=["cat"], static=tmp_path, static_headers=ours)) as general:
        answer = await general.http.get("/game/")
        missing = await general.http.get("/game/missing.js")

    assert answer.headers.get_list("referrer-policy") == ["no-referrer"]
    assert answer.headers.get_list("content-security-policy") == ["frame-ancestors 'self'"]
    check_own(missing.headers)
