"""`recheck`: the hook is asked again about clients in their rooms, with real sockets."""

import asyncio
from typing import Any, Final

import httpx
import pytest

from tests.auth.web import Asked, Web, open_web, respond
from tests.conftest import Serve

ANN: Final = respond({"user": "ann"})


def app_of(web: Web, **hook: Any) -> dict[str, Any]:
    return {"command": ["cat"], "auth": {"hook": {"url": web.url, "recheck": 0.3, "timeout": 10.0, **hook}}}


def cookie(name: str = "ann") -> dict[str, str]:
    return {"Cookie": f"session={name}"}


@pytest.mark.parametrize("status", [401, 403])
async def test_a_client_whose_session_has_ended_is_closed_with_4401(serve: Serve, status: int) -> None:
    async with open_web(lambda _: ANN) as web:
        site = await serve(chat=app_of(web))
        ann = await site.join("/chat/lobby", additional_headers=cookie())
        await web.wait_asked(2)
        await ann.say("still here")
        await ann.hear("still here")

        web.answer = lambda _: respond(status=status)

        assert await ann.wait_closed() == (4401, "no valid credential")
        assert web.asked[-1].json == web.asked[0].json
        assert site.rechecks == 0
        assert "session=ann" not in repr(serve.events)


@pytest.mark.parametrize(
    "answer",
    [
        respond({"user": "bob"}),
        respond({"user": "ann", "roles": ["read"]}),
        respond({"user": "ann", "rooms": ["other"]}),
        respond({"user": "ann", "expires_at": 1}),
    ],
)
async def test_a_client_with_fewer_rights_than_before_is_closed(serve_express: Serve, answer: bytes) -> None:
    async with open_web(lambda _: ANN) as web:
        site = await serve_express(chat=app_of(web))
        ann = await site.join("/chat/lobby", additional_headers=cookie())

        web.answer = lambda _: answer

        assert (await ann.wait_closed())[0] == 4401


@pytest.mark.parametrize("answer", [respond(status=500), respond({"user": 1}), None])
async def test_a_client_stays_while_the_hook_is_unavailable(serve_express: Serve, answer: bytes | None) -> None:
    async with open_web(lambda _: ANN) as web:
        site = await serve_express(chat=app_of(web, timeout=1.0))
        ann = await site.join("/chat/lobby", additional_headers=cookie())

        web.answer = lambda _: answer
        await web.wait_asked(3)  # the second answer, or its timeout, is over
        await ann.say("still here")

        await ann.hear("still here")


async def test_a_client_with_a_ticket_is_asked_about_with_the_credential_of_the_ticket(serve_express: Serve) -> None:
    async with open_web(lambda _: ANN) as web:
        site = await serve_express(chat=app_of(web))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}") as page:
            ticket = (await page.post("/chat/api/lobby/ticket", headers=cookie())).json()["ticket"]
        ann = await site.join(f"/chat/lobby?ticket={ticket}")
        await web.wait_asked(2)

        web.answer = lambda _: respond(status=401)

        assert (await ann.wait_closed())[0] == 4401
        assert {asked.json["headers"]["Cookie"] for asked in web.asked} == {"session=ann"}


async def test_many_clients_are_asked_about_a_few_at_a_time_and_each_alone_is_closed(serve_express: Serve) -> None:
    def answer(asked: Asked) -> bytes:
        user = asked.json["headers"]["Cookie"].partition("=")[2]
        return respond({"user": user}, status=401 if user in ended else 200)

    ended: set[str] = set()
    async with open_web(answer) as web:
        site = await serve_express(chat=app_of(web, max_in_flight=4))
        players = {str(number): await site.join("/chat/lobby", additional_headers=cookie(str(number))) for number in range(20)}
        web.most_at_once = 0

        ended = {"3", "17"}

        for name in ended:
            assert (await players[name].wait_closed())[0] == 4401
        await web.wait_asked(len(web.asked) + 20)
        assert web.most_at_once <= 2
        assert len(site.room("chat", "lobby").clients) == 18


async def test_nobody_is_asked_about_after_leaving(serve_express: Serve) -> None:
    async with open_web(lambda _: ANN) as web:
        site = await serve_express(chat=app_of(web), game=app_of(web, recheck=None))
        ann = await site.join("/chat/lobby", additional_headers=cookie())
        await site.join("/game/one", additional_headers=cookie())
        assert site.rechecks == 1

        await ann.leave()

        await site.until(lambda: site.rechecks == 0)
        before = len(web.asked)
        await asyncio.sleep(0.7)
        assert len(web.asked) == before
