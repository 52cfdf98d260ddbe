"""An app with a hook, with real sockets and programs."""

import asyncio
from collections import Counter
from typing import Any, Final

import pytest

from tests.auth.web import Asked, Web, open_web, respond
from tests.conftest import Serve

SHOW: Final = ["sh", "-c", 'echo "cookie=$HTTP_COOKIE authorization=$HTTP_AUTHORIZATION"; exec cat']
COOKIE: Final = {"Cookie": "session=canary"}


def app_of(web: Web, **hook: Any) -> dict[str, Any]:
    return {"command": SHOW, "auth": {"hook": {"url": web.url, **hook}}}


def decide(asked: Asked) -> bytes:
    """Let ann into all rooms, bob into the lobby, nobody else."""
    users = {"session=canary": {"user": "ann"}, "session=bob": {"user": "bob", "rooms": ["lobby"]}}
    user = users.get(asked.json["headers"].get("Cookie"))
    return respond(user, status=401 if user is None else 200)


async def test_a_client_that_the_hook_knows_joins_and_its_credential_stays_outside(serve: Serve) -> None:
    async with open_web(decide) as web:
        site = await serve(chat=app_of(web))

        ann = await site.join("/chat/lobby?x=1", additional_headers=COOKIE)

        await ann.hear("cookie= authorization=")
        assert web.asked[0].json["room"] == "lobby"
        assert web.asked[0].json["query"] == "x=1"
        assert "canary" not in repr(serve.events)
        (client,) = site.room("chat", "lobby").clients.values()
        assert client.identity is not None
        assert (client.identity.user, client.identity.method) == ("ann", "hook")


@pytest.mark.parametrize(("cookie", "room", "status", "code"), [("bob", "other", 403, 4403), ("eve", "lobby", 401, 4401)])
async def test_a_client_that_the_hook_refuses_touches_no_room(
    serve: Serve, cookie: str, room: str, status: int, code: int
) -> None:
    async with open_web(decide) as web:
        site = await serve(chat=app_of(web))
        headers = {"Cookie": f"session={cookie}"}

        assert await site.refused(f"/chat/{room}", additional_headers=headers) == status
        page = await site.join(f"/chat/{room}", additional_headers=headers, origin=f"http://127.0.0.1:{site.port}")
        assert (await page.wait_closed())[0] == code
        assert site.gateway.pools["chat"].rooms_total == 0


async def test_a_page_can_read_why_it_was_refused_where_its_origin_is_a_credential(serve: Serve) -> None:
    async with open_web(decide) as web:
        site = await serve(chat=app_of(web, headers=["Origin"]))

        page = await site.join("/chat/lobby", origin=f"http://127.0.0.1:{site.port}")
        assert (await page.wait_closed())[0] == 4401


async def test_a_hook_that_lies_lets_nobody_in(serve: Serve) -> None:
    async with open_web(lambda _: respond({"user": ["ann"]})) as web:
        site = await serve(chat=app_of(web))

        assert await site.refused("/chat/lobby", additional_headers=COOKIE) == 503
        page = await site.join("/chat/lobby", additional_headers=COOKIE, origin=f"http://127.0.0.1:{site.port}")
        assert (await page.wait_closed())[0] == 1013


async def test_a_client_without_any_credential_is_refused_without_a_question(serve: Serve) -> None:
    async with open_web(decide) as web:
        site = await serve(chat=app_of(web))

        assert await site.refused("/chat/lobby") == 401
        assert web.asked == []


async def test_guesses_are_limited_by_failures(serve: Serve) -> None:
    async with open_web(decide) as web:
        app = app_of(web)
        app["auth"]["failures"] = {"limit": 3, "per": 60.0}
        site = await serve(chat=app)

        statuses = [await site.refused("/chat/lobby", additional_headers={"Cookie": f"session={number}"}) for number in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert len(web.asked) == 3


def cookies(count: int) -> list[dict[str, Any]]:
    return [{"additional_headers": {"Cookie": f"session={number}"}} for number in range(count)]


async def test_many_users_behind_one_address_may_log_in_at_once(serve: Serve) -> None:
    async with open_web(lambda asked: respond({"user": asked.json["headers"]["Cookie"]})) as web:
        site = await serve(chat=app_of(web, timeout=10.0))  # failures.limit is 20

        players = await asyncio.gather(*(site.join("/chat/lobby", **shown) for shown in cookies(100)))

        assert len(players) == len(web.asked) == 100
        assert web.most_at_once <= 20


async def test_many_guesses_at_once_are_limited_by_failures(serve: Serve) -> None:
    async with open_web(lambda _: respond(status=401)) as web:
        site = await serve(chat=app_of(web, timeout=10.0))

        statuses = Counter(await asyncio.gather(*(site.refused("/chat/lobby", **shown) for shown in cookies(100))))

        assert statuses == {401: len(web.asked), 429: 100 - len(web.asked)}
        assert 20 <= len(web.asked) <= 22  # failures fade, one in 3 s


@pytest.mark.one_process("each worker asks its part of max_in_flight")
async def test_a_hook_that_never_answers_delays_nobody_who_plays(serve_express: Serve) -> None:
    async with open_web(lambda _: None) as web:
        private = {**app_of(web, timeout=30.0, max_in_flight=16), "command": ["cat"]}
        site = await serve_express(chat={"command": ["cat"]}, private=private)
        ann = await site.join("/chat/lobby")

        waiting = [asyncio.create_task(site.refused("/private/one", additional_headers=COOKIE)) for _ in range(16)]
        await web.wait_asked(16)
        assert await site.refused("/private/one", additional_headers=COOKIE) == 503  # at once
        for number in range(50):
            await ann.say(str(number))
            await ann.hear(str(number))

        assert not any(task.done() for task in waiting)
        assert web.most_at_once == 16
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_a_peer_that_leaves_cancels_its_question(serve_express: Serve) -> None:
    async with open_web(lambda _: None) as web:
        site = await serve_express(private=app_of(web, timeout=30.0))
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(
            b"GET /private/one HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: a=b\r\n\r\n"
        )
        await web.wait_asked()
        writer.close()

        async with asyncio.timeout(5):
            await web.wait_closed()
        hook = site.gateway.admission.authenticators.resources.find_hook("private")
        assert hook is not None
        assert hook.in_flight == 0


async def test_an_edit_of_another_key_keeps_the_cache(serve_express: Serve) -> None:
    async with open_web(decide) as web:
        site = await serve_express(chat=app_of(web, cache=60.0))
        resources = site.gateway.admission.authenticators.resources
        hook = resources.find_hook("chat")

        app = site.gateway.site.apps["chat"]
        edited = site.gateway.site.model_copy(update={"apps": {"chat": app.model_copy(update={"max_clients": 3})}})
        site.gateway.apply(edited)
        assert resources.find_hook("chat") is hook

        without = app.model_copy(update={"auth": None})
        site.gateway.apply(edited.model_copy(update={"apps": {"chat": without}}))
        assert resources.find_hook("chat") is None
