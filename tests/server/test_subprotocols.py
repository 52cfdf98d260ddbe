"""Negotiation of `Sec-WebSocket-Protocol` (RFC 6455 4.2.2), on both lanes and over HTTP/2."""

from typing import Any

import pytest

from scalesocket.config.model import App, Server
from tests.conftest import Serve
from tests.playing import open_playground, site_of
from tests.raw import RawClient, upgrade
from tests.server.http2 import open_http2

pytestmark = pytest.mark.anyio

TOKEN = "eyJhbGciOiJub25lIn0"


def offer(*names: str) -> dict[str, Any]:
    return {"subprotocols": list(names)}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


async def test_the_first_offered_name_that_is_listed_is_chosen(serve: Serve) -> None:
    site = await serve(chat=App(name="chat", command=["cat"], subprotocols=["v1.chat", "v2.chat"]))

    ann = await site.join("/chat/lobby", **offer("v3.chat", "v2.chat", "v1.chat"))
    await ann.say("hello")

    assert ann.connection.subprotocol == "v2.chat"
    await ann.hear("hello")
    assert not serve.logged("no common subprotocol")


async def test_any_name_is_chosen_if_all_are_listed(serve: Serve) -> None:
    site = await serve(chat=App(name="chat", command=["cat"], subprotocols=["*"]))

    assert (await site.join("/chat/lobby", **offer("mqtt", "stomp"))).connection.subprotocol == "mqtt"
    assert (await site.join("/chat/lobby")).connection.subprotocol is None


async def test_a_name_that_is_not_listed_is_not_chosen_and_a_hint_is_logged_once_per_app(serve: Serve) -> None:
    apps = {name: App(name=name, command=["cat"], subprotocols=["bearer"]) for name in ("chat", "game")}
    site = await serve(**apps)

    for path in ("/chat/one", "/chat/two", "/game/one"):
        ann = await site.join(path, **offer(TOKEN))
        await ann.say("hello")
        await ann.hear("hello")
        assert "Sec-WebSocket-Protocol" not in ann.connection.response.headers  # type: ignore[union-attr]

    assert [entry["app"] for entry in serve.logged("no common subprotocol")] == ["chat", "game"]
    assert TOKEN not in str(serve.events)


async def test_several_headers_form_one_list(serve: Serve) -> None:
    site = await serve(chat=App(name="chat", command=["cat"], subprotocols=["a", "b"]))
    ann = await RawClient.connect(await site.connect())
    site.raw_clients.append(ann)

    ann.send(upgrade("/chat/lobby", "Sec-WebSocket-Protocol: x, a", "Sec-WebSocket-Protocol: b"))

    assert "sec-websocket-protocol: a\r\n" in (await ann.read_head()).lower()


@pytest.mark.parametrize("value", ["", "a b", "a/b", "chat, chat"])
async def test_a_bad_list_is_400(serve: Serve, value: str) -> None:
    site = await serve(chat=App(name="chat", command=["cat"], subprotocols=["*"]))

    assert await site.refused("/chat/lobby", additional_headers={"Sec-WebSocket-Protocol": value}) == 400
    assert site.gateway.pools["chat"].refusals["bad_handshake"] == 1


async def test_a_client_of_a_full_room_gets_its_subprotocol_too(serve: Serve) -> None:
    site = await serve(chat=App(name="chat", command=["cat"], max_clients=1, subprotocols=["mqtt"]))
    await site.join("/chat/lobby")

    bob = await site.join("/chat/lobby", **offer("mqtt"))

    assert bob.connection.subprotocol == "mqtt"
    assert (await bob.wait_closed())[0] == 1013


async def test_an_edit_applies_to_the_next_client(serve: Serve) -> None:
    site = await serve(chat=App(name="chat", command=["cat"], max_clients=2))
    await site.join("/chat/lobby", **offer("mqtt"))

    site.gateway.apply(site_of({"chat": App(name="chat", command=["cat"], max_clients=2, subprotocols=["mqtt"])}))

    assert (await site.join("/chat/lobby", **offer("mqtt"))).connection.subprotocol == "mqtt"


async def test_a_name_is_chosen_over_http2(anyio_backend: object) -> None:
    site = site_of({"chat": App(name="chat", command=["cat"], subprotocols=["mqtt"])}, Server(http2_websockets=True))
    async with open_playground(site) as playground, open_http2(playground.port) as http2:
        offers = ("stomp, mqtt", "stomp", "mqtt, mqtt")
        answers = [(await http2.open_websocket("/chat/lobby", ("sec-websocket-protocol", offer)))[0] for offer in offers]
        (status, headers), (_, without), (refused, _) = answers

    assert (status, headers["sec-websocket-protocol"]) == (200, "mqtt")
    assert "sec-websocket-protocol" not in without
    assert refused == 400
