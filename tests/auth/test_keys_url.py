"""An app with `keys_url`, with a real source and real sockets."""

from typing import Any

import pytest

from tests.auth.test_fetched_jwt import NEW, OLD, jwks, token
from tests.auth.tokens import bearer
from tests.auth.web import Web, open_web, respond
from tests.conftest import Serve
from tests.playing import site_of


def app_of(web: Web, path: str = "keys") -> dict[str, Any]:
    return {"command": ["cat"], "auth": {"jwt": {"keys_url": web.url + path}}}


@pytest.mark.one_process("each worker fetches the keys")
async def test_tokens_are_verified_with_fetched_keys(serve: Serve) -> None:
    async with open_web(lambda _: respond(jwks(old=OLD))) as web:
        site = await serve(chat=app_of(web), game=app_of(web))

        ann = await site.join("/chat/lobby", additional_headers=bearer(token()))
        await site.join("/game/one", additional_headers=bearer(token()))
        await ann.say("hello")

        await ann.hear("hello")
        assert await site.refused("/chat/lobby", additional_headers=bearer(token(NEW, kid="new"))) == 503
        assert [(asked.method, asked.path) for asked in web.asked] == [("GET", "/keys")]  # once for both apps
        assert "authorization" not in web.asked[0].headers


async def test_while_the_keys_are_missing_a_page_is_told_to_come_back(serve_express: Serve) -> None:
    async with open_web(lambda _: respond(status=500)) as web:
        site = await serve_express(chat=app_of(web))
        await web.wait_asked()

        assert await site.refused("/chat/lobby", additional_headers=bearer(token())) == 503
        ann = await site.join("/chat/lobby", additional_headers=bearer(token()), origin=f"http://127.0.0.1:{site.port}")
        assert (await ann.wait_closed())[0] == 1013


@pytest.mark.one_process("each worker fetches the keys")
async def test_an_edit_of_the_url_fetches_the_new_keys_and_one_of_another_key_does_not(serve_express: Serve) -> None:
    async with open_web(lambda asked: respond(jwks(old=OLD) if asked.path == "/keys" else jwks(new=NEW))) as web:
        site = await serve_express(chat=app_of(web))
        await site.join("/chat/lobby", additional_headers=bearer(token()))
        site.gateway.apply(site_of({"chat": {**app_of(web), "max_clients": 100}}))
        await site.join("/chat/lobby", additional_headers=bearer(token()))
        assert len(web.asked) == 1

        site.gateway.apply(site_of({"chat": app_of(web, "others")}))

        await site.join("/chat/lobby", additional_headers=bearer(token(NEW, kid="new")))
        assert await site.refused("/chat/lobby", additional_headers=bearer(token())) == 503  # a newer set may have it
        assert [asked.path for asked in web.asked] == ["/keys", "/others"]
