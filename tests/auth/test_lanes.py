"""Authentication on both lanes, with real sockets and programs."""

import pytest
import websockets

from tests.auth.tokens import AUTH, bearer, token
from tests.conftest import Serve


@pytest.mark.every_combination
async def test_a_client_with_a_token_joins(serve: Serve) -> None:
    site = await serve(chat={"command": ["cat"], "auth": AUTH})

    ann = await site.join("/chat/lobby", additional_headers=bearer(token()))
    await ann.say("hello")

    await ann.hear("hello")


async def test_a_client_without_a_token_gets_401_before_its_room_is_touched(serve: Serve) -> None:
    site = await serve(chat={"command": ["cat"], "auth": AUTH})

    try:
        await site.join("/chat/lobby")
    except websockets.InvalidStatus as error:
        answer = error.response
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="chat"'
    assert await site.refused("/chat/lobby", additional_headers=bearer(token(secret="x" * 32))) == 401
    assert site.gateway.pools["chat"].rooms_total == 0
    assert site.gateway.pools["chat"].refusals == {"no_credential": 1, "bad_credential": 1}


async def test_a_page_without_a_token_is_closed_with_4401(serve: Serve) -> None:
    site = await serve(chat={"command": ["cat"], "auth": AUTH})
    origin = f"http://127.0.0.1:{site.port}"

    ann = await site.join("/chat/lobby", origin=origin)

    assert await ann.wait_closed() == (4401, "no valid credential")
    assert site.gateway.pools["chat"].rooms_total == 0


async def test_a_token_in_the_subprotocol_is_removed_and_bearer_is_answered(serve: Serve) -> None:
    site = await serve(chat={"command": ["cat"], "auth": AUTH, "subprotocols": ["mqtt"]})
    secret = token()

    ann = await site.join("/chat/lobby", subprotocols=["bearer", secret])
    bob = await site.join("/chat/lobby", subprotocols=["mqtt", "bearer", secret])

    assert ann.connection.subprotocol == "bearer"
    assert bob.connection.subprotocol == "mqtt"
