"""The hook, asked over HTTP: good, slow, dead, lying and refusing ones."""

import asyncio
import gzip
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from scalesocket import logs
from scalesocket.auth import http_client
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, FORBIDDEN, NOT_AVAILABLE, Denial
from scalesocket.auth.hook import MAX_ANSWER, MAX_CACHED, HookClient
from scalesocket.auth.http_client import HttpClient, make_client
from scalesocket.auth.identity import WRITER, Identity, Role
from scalesocket.config.model import Auth
from scalesocket.wire.handshake import Request, parse_request
from tests.auth.deciding import Door
from tests.auth.web import Answering, Web, open_web, respond

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"
ANN = respond({"user": "ann"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def upgrade(*fields: str, query: str = "") -> Request:
    head = "\r\n".join((f"GET /chat/lobby{query} HTTP/1.1", "Host: play.example", *fields))
    return parse_request(head.encode(), peer=("192.0.2.7", 40000), local=("127.0.0.1", 9000), is_secure=False)


WITH_COOKIE = upgrade(f"Cookie: session={CANARY}")


@asynccontextmanager
async def open_hook(answer: Answering, **settings: Any) -> AsyncIterator[tuple[HookClient, Web]]:
    http = HttpClient()
    async with open_web(answer) as web:
        try:
            auth = Auth.model_validate({"hook": {"url": web.url, **settings}})
            assert auth.hook is not None
            yield HookClient("chat", auth.hook, http), web
        finally:
            await http.close()


async def ask(hook: HookClient, request: Request = WITH_COOKIE) -> Identity | Denial:
    return await hook.ask(hook.question(request, "lobby"))


async def test_a_hook_is_told_what_admission_knows() -> None:
    async with open_hook(lambda _: ANN) as (hook, web):
        await ask(hook, upgrade("Origin: https://play.example", "Cookie: a=b", "Authorization: Bearer x", query="?seat=3"))

        assert web.asked[0].method == "POST"
        assert web.asked[0].headers["content-type"] == "application/json"
        assert web.asked[0].json == {
            "app": "chat",
            "room": "lobby",
            "origin": "https://play.example",
            "address": "192.0.2.7",
            "headers": {"Cookie": "a=b", "Authorization": "Bearer x"},
            "query": "seat=3",
        }


async def test_a_hook_gets_only_the_named_headers_and_none_of_the_connection() -> None:
    names = ("X-Session", "X-Hop")
    fields = ("X-Session: 1", "X-Hop: 1", "Connection: Upgrade, X-Hop", "Upgrade: websocket", "Cookie: a=b")
    async with open_hook(lambda _: ANN, headers=names) as (hook, web):
        await ask(hook, upgrade(*fields, "Sec-WebSocket-Key: 1"))

        assert web.asked[0].json["headers"] == {"X-Session": "1"}
        assert not {"cookie", "x-session", "x-hop", "upgrade", "sec-websocket-key"} & web.asked[0].headers.keys()


async def test_a_full_answer_makes_an_identity() -> None:
    then = time.time() + 60
    answer = {"user": "ann", "rooms": ["lobby", "team-*"], "roles": ["read"], "info": {"level": 3}, "expires_at": then, "more": 1}
    async with open_hook(lambda _: respond(json.dumps(answer, indent=2).encode())) as (hook, _):
        identity = await ask(hook)

    assert isinstance(identity, Identity)
    assert (identity.user, identity.method, identity.rooms) == ("ann", "hook", ("lobby", "team-*"))
    assert (identity.roles, identity.info, identity.expires_at) == (frozenset({Role.READ}), '{"level":3}', then)


async def test_a_short_answer_means_a_writer_in_all_rooms() -> None:
    async with open_hook(lambda _: ANN) as (hook, _):
        identity = await ask(hook)

    assert isinstance(identity, Identity)
    assert (identity.rooms, identity.roles, identity.info) == (None, WRITER, "null")


@pytest.mark.parametrize(("status", "denial"), [(401, BAD_CREDENTIAL), (403, FORBIDDEN)])
async def test_a_hook_refuses_with_401_and_403(status: int, denial: Denial) -> None:
    async with open_hook(lambda _: respond({"user": "ann"}, status=status)) as (hook, _):
        assert await ask(hook) is denial


@pytest.mark.parametrize(("status", "reason"), [(401, "bad_credential"), (403, "forbidden")])
async def test_a_refusal_of_a_hook_is_a_failed_attempt(status: int, reason: str) -> None:
    async with open_web(lambda _: respond(status=status)) as web:
        door = Door(hook={"url": web.url}, failures={"limit": 1, "per": "1h"})
        refused = await door.check({"Cookie": "session=guess"})

    assert isinstance(refused, Denial)
    assert refused.reason == reason
    assert door.denies({"Cookie": "session=another"}) == "too_many_failures"


async def test_an_answer_that_has_expired_refuses() -> None:
    async with open_hook(lambda _: respond({"user": "ann", "expires_at": 1})) as (hook, _):
        assert await ask(hook) is EXPIRED


@pytest.mark.parametrize(
    "answer",
    [
        *(respond({"user": "ann"}, status=status) for status in (201, 204, 300, 400, 404, 429, 500, 503)),
        *(respond(body) for body in (b"", b"{", b"null", b"true", b"ok", b"[]", b'"ann"', b"\xff", b"[" * 60_000, b'{"user"')),
        *(respond(body) for body in ({}, {"user": None}, {"user": 1}, {"user": ""}, {"user": "a" * 257}, {"User": "ann"})),
        *(respond({"user": user}) for user in ("ann\nroot", "\x1b[2J", "a\u2028b", "\0")),
        *(respond({"user": "ann", "rooms": rooms}) for rooms in ("lobby", [1], {"lobby": True}, [None])),
        *(respond({"user": "ann", key: None}) for key in ("rooms", "roles", "expires_at")),
        *(respond({"user": "ann", "roles": roles}) for roles in ("read", ["admin"], [1], ["READ"], {"read": 1})),
        *(respond({"user": "ann", "expires_at": time}) for time in ("never", "1999999999", True, [1])),
        respond(b'{"user": "ann", "expires_at": NaN}'),
        respond(b'{"user": "ann", "expires_at": 1e999}'),
        respond(b'{"user": "ann", "info": {]}}'),
        respond({"user": "ann", "info": "x" * MAX_ANSWER}),
        respond(b'{"user": "ann", "info": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
        respond(gzip.compress(b'{"user": "ann"}', mtime=0), headers={"Content-Encoding": "gzip"}),
        respond({"user": "ann"}, headers={"Content-Length": "5000"})[:-1] + b"\n" * 2,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"",
    ],
)
async def test_an_unclear_answer_lets_nobody_in(answer: bytes) -> None:
    async with open_hook(lambda _: answer, timeout=0.3) as (hook, _):
        assert await ask(hook) is NOT_AVAILABLE


async def test_a_redirect_is_not_followed() -> None:
    async with open_web(lambda _: ANN) as other:
        redirect = respond(status=307, headers={"Location": other.url})
        async with open_hook(lambda _: redirect) as (hook, _):
            assert await ask(hook) is NOT_AVAILABLE

        assert other.asked == []


async def test_an_endless_body_is_not_read_to_its_end() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_ANSWER + 1)  # and the connection stays open
    async with open_hook(lambda _: endless, timeout=30.0) as (hook, _):
        assert await asyncio.wait_for(ask(hook), timeout=5) is NOT_AVAILABLE


async def test_a_silent_hook_is_given_up_after_its_timeout() -> None:
    async with open_hook(lambda _: None, timeout=0.2) as (hook, web):
        started = time.monotonic()
        assert await ask(hook) is NOT_AVAILABLE

        assert 0.2 <= time.monotonic() - started < 10
        assert len(web.asked) == 1
        assert hook.in_flight == 0


async def test_the_http_client_is_made_once_in_no_question_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make_slowly() -> Any:
        made.append(time.sleep(1.2))
        return make_client()

    monkeypatch.setattr(http_client, "make_client", make_slowly)
    async with open_hook(lambda _: ANN, timeout=1.0) as (hook, _):
        cancelled = asyncio.ensure_future(ask(hook))  # its peer went away
        await asyncio.sleep(0.1)
        cancelled.cancel()

        answers = await asyncio.gather(ask(hook), ask(hook, upgrade("Cookie: session=other")))

        assert all(isinstance(answer, Identity) for answer in answers)
        assert len(made) == 1


async def test_a_dead_hook_lets_nobody_in() -> None:
    async with open_web(lambda _: ANN) as web:
        url = web.url
    async with open_hook(lambda _: ANN, url=url) as (hook, _):
        assert await ask(hook) is NOT_AVAILABLE


async def test_no_more_than_max_in_flight_are_asked_at_once() -> None:
    async with open_hook(lambda _: None, timeout=30.0, max_in_flight=4) as (hook, web):
        waiting = [asyncio.create_task(ask(hook)) for _ in range(4)]
        await asyncio.sleep(0)
        assert await ask(hook) is NOT_AVAILABLE
        assert not any(question.done() for question in waiting)

        await web.wait_asked(4)
        assert web.most_at_once == 4
        for question in waiting:
            question.cancel()
        await asyncio.wait(waiting)
        web.answer = lambda _: ANN
        assert isinstance(await ask(hook), Identity)


async def test_a_client_that_goes_away_frees_its_place() -> None:
    async with open_hook(lambda _: None, timeout=30.0, max_in_flight=1) as (hook, web):
        waiting = asyncio.create_task(ask(hook))
        await web.wait_asked()
        waiting.cancel()
        await asyncio.wait([waiting])
        web.answer = lambda _: ANN

        assert isinstance(await ask(hook), Identity)


async def test_questions_about_clients_inside_leave_half_of_the_places_to_newcomers() -> None:
    async with open_hook(lambda _: None, timeout=0.5, max_in_flight=4) as (hook, _):
        question = hook.question(WITH_COOKIE, "lobby")
        waiting = [asyncio.create_task(hook.ask_again(question)) for _ in range(2)]
        await asyncio.sleep(0)

        assert await hook.ask_again(question) is NOT_AVAILABLE
        assert hook.in_flight == 2
        await asyncio.gather(*waiting)


async def test_without_cache_a_hook_is_asked_each_time() -> None:
    async with open_hook(lambda _: ANN) as (hook, web):
        for _ in range(2):
            assert hook.find(hook.question(WITH_COOKIE, "lobby")) is None
            await ask(hook)

        assert len(web.asked) == 2


async def test_a_cached_answer_is_for_the_same_question_alone() -> None:
    async with open_hook(lambda _: ANN, cache=60.0) as (hook, _):
        await ask(hook)

        assert isinstance(hook.find(hook.question(WITH_COOKIE, "lobby")), Identity)
        assert hook.find(hook.question(WITH_COOKIE, "other")) is None
        assert hook.find(hook.question(upgrade("Cookie: session=other"), "lobby")) is None
        assert hook.find(hook.question(upgrade(), "lobby")) is None


async def test_refusals_are_cached_and_failures_are_not() -> None:
    async with open_hook(lambda _: respond(status=401), cache=60.0) as (hook, web):
        await ask(hook)
        assert hook.find(hook.question(WITH_COOKIE, "lobby")) is BAD_CREDENTIAL

        web.answer = lambda _: respond(status=500)
        await ask(hook, upgrade("Cookie: b=c"))
        assert hook.find(hook.question(upgrade("Cookie: b=c"), "lobby")) is None


async def test_a_cached_answer_ends_with_its_identity() -> None:
    async with open_hook(lambda _: respond({"user": "ann", "expires_at": time.time() + 0.8}), cache=60.0) as (hook, _):
        question = hook.question(WITH_COOKIE, "lobby")
        assert isinstance(await hook.ask(question), Identity)
        await asyncio.sleep(0.85)

        assert hook.find(question) is EXPIRED


async def test_the_cache_is_bounded_and_holds_no_credential() -> None:
    async with open_hook(lambda _: ANN, cache=60.0) as (hook, _):
        question = hook.question(WITH_COOKIE, "lobby")
        answer = await hook.ask(question)
        for number in range(MAX_CACHED + 10):
            hook._remember(hook.question(upgrade(f"Cookie: {number}"), "lobby"), answer)

        assert len(hook._cache) == MAX_CACHED
        assert hook.find(question) is None  # the oldest
        assert CANARY not in repr(hook._cache)
        assert CANARY not in repr(question)


async def test_cookies_of_a_hook_are_not_sent_back() -> None:
    answer = respond({"user": "ann"}, headers={"Set-Cookie": "of=ann; Path=/"})
    async with open_hook(lambda _: answer) as (hook, web):
        await ask(hook)
        await ask(hook)

        assert "cookie" not in web.asked[1].headers
        assert web.open == 1  # one connection for both


async def test_the_environment_names_no_proxy_for_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_web(lambda _: respond({"user": "mallory"})) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with open_hook(lambda _: ANN) as (hook, _):
            identity = await ask(hook)

        assert isinstance(identity, Identity)
        assert identity.user == "ann"


@pytest.fixture
def debug_log() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.set_log("text", "debug")
    yield
    logs.set_level("info")
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


async def test_libraries_log_neither_url_nor_headers(debug_log: None, caplog: pytest.LogCaptureFixture) -> None:
    answer = respond({"user": "ann"}, headers={"Set-Cookie": f"session={CANARY}"})
    async with open_web(lambda _: answer) as web, open_hook(lambda _: answer, url=f"{web.url}?key={CANARY}") as (hook, _):
        assert isinstance(await ask(hook), Identity)

    assert CANARY not in caplog.text


async def test_after_the_end_of_the_site_nothing_is_asked() -> None:
    async with open_hook(lambda _: ANN) as (hook, web):
        await ask(hook)
        await hook._http.close()

        assert await ask(hook) is NOT_AVAILABLE
        assert len(web.asked) == 1


async def test_a_failing_hook_is_logged_once_and_without_credentials() -> None:
    with structlog.testing.capture_logs() as events:
        async with open_hook(lambda _: respond({"user": 1, CANARY: CANARY})) as (hook, web):
            for _ in range(3):
                await ask(hook)
            web.answer = lambda _: ANN
            await ask(hook)

    assert [event["event"] for event in events] == ["hook unavailable: clients are turned away", "hook answers again"]
    assert events[0]["problem"] == "the response is not the expected JSON: see user"
    assert CANARY not in repr(events)
