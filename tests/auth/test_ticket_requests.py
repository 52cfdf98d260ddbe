"""Tickets from their request to the websocket, over real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import pytest

from scalesocket.auth.tickets import Tickets
from tests.auth.tokens import AUTH, bearer, token
from tests.auth.web import open_web, respond
from tests.conftest import Serve
from tests.playing import Playground

LASTING: Final = token(ttl=3600)
SHOW: Final = {"command": ["sh", "-c", 'echo "query=$QUERY_STRING"; exec cat'], "auth": AUTH}


@asynccontextmanager
async def open_page(site: Playground) -> AsyncIterator[httpx.AsyncClient]:
    """Open a page of the same origin, which makes requests."""
    url = f"http://127.0.0.1:{site.port}"
    async with httpx.AsyncClient(base_url=url, headers={"Origin": url}) as page:
        yield page


async def get_ticket(page: httpx.AsyncClient, path: str = "/chat/api/lobby/ticket", **claims: Any) -> str:
    answer = await page.post(path, headers=bearer(token(**claims)))
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"ticket", "expires_in"}
    assert answer.json()["expires_in"] == 30
    assert answer.headers["cache-control"] == "no-store"
    ticket: str = answer.json()["ticket"]
    return ticket


async def test_a_ticket_opens_one_websocket_and_nobody_sees_it(serve: Serve) -> None:
    site = await serve(chat=SHOW)
    async with open_page(site) as page:
        ticket = await get_ticket(page, sub="ann", info={"level": 3})

        ann = await site.join(f"/chat/lobby?a=1&ticket={ticket}&b=2", origin=str(page.base_url).rstrip("/"))

        await ann.hear("query=a=1&b=2")
        (client,) = site.room("chat", "lobby").clients.values()
        assert client.identity is not None
        assert (client.identity.user, client.identity.method, client.identity.info) == ("ann", "ticket", '{"level":3}')
        assert await site.refused(f"/chat/lobby?ticket={ticket}") == 401
        assert ticket not in repr(serve.events)


async def test_a_ticket_is_for_its_room_alone(serve_express: Serve) -> None:
    site = await serve_express(chat=SHOW, game=SHOW)
    async with open_page(site) as page:
        assert await site.refused(f"/chat/other?ticket={await get_ticket(page)}") == 403
        assert await site.refused(f"/game/lobby?ticket={await get_ticket(page)}") == 401
        assert site.gateway.pools["chat"].rooms_total == site.gateway.pools["game"].rooms_total == 0


async def test_the_app_at_the_root_has_tickets_too(serve_express: Serve) -> None:
    site = await serve_express(chat={**SHOW, "mount": "/"})
    async with open_page(site) as page:
        ticket = await get_ticket(page, "/api/lobby/ticket")

        ann = await site.join(f"/lobby?ticket={ticket}")

        await ann.hear("query=")
        assert (await page.post("/chat/api/lobby/ticket", headers=bearer(token()))).status_code == 404


@pytest.mark.parametrize(
    ("path", "its_token", "status"),
    [
        ("/chat/api/lobby/ticket", None, 401),
        ("/chat/api/lobby/ticket", token(ttl=3600, secret="x" * 32), 401),
        ("/chat/api/lobby/ticket", token(ttl=-100), 401),
        ("/chat/api/lobby/ticket", token(ttl=3600, rooms=["other"]), 403),
        ("/chat/api/%2E%2E%20/ticket", LASTING, 400),
        ("/open/api/lobby/ticket", LASTING, 404),
        ("/header/api/lobby/ticket", LASTING, 404),
        ("/none/api/lobby/ticket", LASTING, 404),
    ],
)
async def test_a_ticket_is_refused_as_its_upgrade_would_be(
    serve_express: Serve, path: str, its_token: str | None, status: int
) -> None:
    site = await serve_express(chat=SHOW, open={"command": ["cat"]}, header={**SHOW, "auth": {**AUTH, "from": ["header"]}})
    async with open_page(site) as page:
        answer = await page.post(path, headers={} if its_token is None else bearer(its_token))

        assert answer.status_code == status
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert len(site.gateway.admission.authenticators.resources.tickets) == 0


async def test_a_ticket_buys_no_ticket_and_guests_get_none(serve_express: Serve) -> None:
    site = await serve_express(chat={**SHOW, "auth": {**AUTH, "anonymous": True}})
    async with open_page(site) as page:
        ticket = await get_ticket(page)

        assert (await page.post(f"/chat/api/lobby/ticket?ticket={ticket}")).status_code == 401
        assert (await page.post("/chat/api/lobby/ticket")).status_code == 401
        await site.join(f"/chat/lobby?ticket={ticket}")  # it is still valid


async def test_pages_of_other_origins_get_no_ticket(serve_express: Serve) -> None:
    site = await serve_express(chat=SHOW)
    async with open_page(site) as page:
        evil = {"Origin": "https://evil.example"}
        answer = await page.post("/chat/api/lobby/ticket", headers={**evil, **bearer(token())})
        preflight = {**evil, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        asked = await page.options("/chat/api/lobby/ticket", headers=preflight)

        assert answer.status_code == 403
        assert not [name for name in (*answer.headers, *asked.headers) if name.startswith("access-control")]
        assert (await page.get("/chat/api/lobby/ticket", headers=bearer(token()))).status_code == 404


async def test_a_hook_decides_about_tickets(serve_express: Serve) -> None:
    async with open_web(lambda asked: respond({"user": "ann"})) as web:
        site = await serve_express(chat={**SHOW, "auth": {"hook": {"url": web.url}}})
        async with open_page(site) as page:
            answer = await page.post("/chat/api/lobby/ticket", headers={"Cookie": "session=1"})

            ann = await site.join(f"/chat/lobby?ticket={answer.json()['ticket']}")

        await ann.hear("query=")
        assert len(web.asked) == 1
        assert web.asked[0].json["room"] == "lobby"


async def test_guessed_tickets_are_limited_by_failures(serve_express: Serve) -> None:
    auth = {**AUTH, "failures": {"limit": 5, "per": 60.0}}
    site = await serve_express(chat={**SHOW, "auth": auth})
    async with open_page(site) as page:
        await get_ticket(page)

        statuses = [await site.refused(f"/chat/lobby?ticket={number:022}") for number in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        assert len(site.gateway.admission.authenticators.resources.tickets) == 1
        answer = await page.post("/chat/api/lobby/ticket", headers=bearer(token()))
        assert answer.status_code == 429
        assert "retry-after" in answer.headers


async def test_a_full_table_issues_no_ticket(serve_express: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tickets, "issue", lambda *_, **__: None)
    site = await serve_express(chat=SHOW)
    async with open_page(site) as page:
        answer = await page.post("/chat/api/lobby/ticket", headers=bearer(token()))

        assert answer.status_code == 503
        assert "retry-after" in answer.headers
