"""A client whose room is on another node is served as if it had connected there."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from scalesocket.cluster.preamble import Answer
from scalesocket.cluster.ready import PeerError
from scalesocket.cluster.remote import Claim
from scalesocket.config.model import App, Server
from scalesocket.config.units import MiB
from scalesocket.edge.client import Client
from scalesocket.errors import NODE_STOPS
from scalesocket.placement.placement import HERE
from scalesocket.server.service import Service
from tests.cluster.nodes import FENCE, Contexts, Nodes, make_tls, open_nodes
from tests.placement.ways import trust
from tests.playing import Player, program, site_of
from tests.raw import RawClient, mask_frame, upgrade
from tests.server.test_expiry import make_certificate

pytestmark = pytest.mark.anyio
CAT = {"command": ["cat"]}
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
WAYS = {
    "express": ("express", False, False),
    "tls": ("express", True, False),
    "general": ("general", False, False),
    "tls between nodes": ("express", False, True),
    "general, tls between nodes": ("general", False, True),
}
"""The lane, whether the client uses TLS, and whether the nodes do."""
every_way = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=needs_openssl if "tls" in way else ()) for way in WAYS], ids=str
)


class ServeNodes:
    """Serves a site of the given apps by two nodes."""

    def __init__(self, stack: AsyncExitStack, folder: Path, contexts: Contexts | None) -> None:
        self._stack = stack
        self._folder = folder
        self._contexts = contexts

    async def __call__(self, way: str = "express", **apps: App | dict[str, Any]) -> Nodes:
        lane, has_tls, is_secured = WAYS[way]
        server = make_certificate(self._folder, days=2) if has_tls else Server.model_validate({"bind": "127.0.0.1:0"})
        tls = self._contexts if is_secured else None
        return await self._stack.enter_async_context(open_nodes(site_of(apps, server), cast(Any, lane), tls))

    async def join(self, site: Nodes, way: str, path: str, **options: Any) -> Player:
        """Open a websocket to the node that does not own the room."""
        if WAYS[way][1]:
            return await site.join(path, ssl=trust(self._folder), server_hostname="localhost", scheme="wss", **options)
        return await site.join(path, **options)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts | None:
    return make_tls(tmp_path_factory.mktemp("tls")) if shutil.which("openssl") else None


@pytest.fixture
async def serve_nodes(anyio_backend: object, tmp_path: Path, contexts: Contexts | None) -> AsyncIterator[ServeNodes]:
    async with AsyncExitStack() as stack:
        yield ServeNodes(stack, tmp_path, contexts)


def is_idle(service: Service) -> bool:
    """Whether no connection is left, nor counted."""
    connections = service.connections
    return not (connections.transports or connections.websockets or connections.passages)


async def wait_idle(site: Nodes) -> None:
    await site.until(lambda: all(map(is_idle, site.services)))


@every_way
async def test_clients_share_a_room_of_another_node(serve_nodes: ServeNodes, way: str) -> None:
    site = await serve_nodes(way, chat=CAT)

    ann = await serve_nodes.join(site, way, "/chat/lobby")
    bob = await serve_nodes.join(site, way, "/chat/lobby")
    await ann.say("hello")

    await ann.hear("hello")
    await bob.hear("hello")
    assert [len(service.gateway.pools["chat"].rooms) for service in site.services] == [0, 1]
    assert [len(service.connections.passages) for service in site.services] == [2, 0]
    assert [handed.facts.generation for handed in site.owner.handed] == [0, 0]
    await ann.leave(4000, "bye")
    await bob.leave()
    await site.wait_no_rooms()
    await wait_idle(site)


@every_way
async def test_long_and_many_messages_pass_in_order(serve_nodes: ServeNodes, way: str) -> None:
    site = await serve_nodes(
        way, chat=App(name="chat", command=program("echo"), max_message=2 * MiB, max_record=2 * MiB, compression=True)
    )
    ann = await serve_nodes.join(site, way, "/chat/lobby", compression="deflate" if way != "general" else None)
    texts = [str(number) * (1 + number % 100) for number in range(1_000)]

    await ann.say("x" * MiB)
    for text in texts:
        await ann.say(text)

    await ann.hear("x" * MiB, *texts)


@every_way
async def test_a_client_that_reads_slowly_gets_everything(serve_nodes: ServeNodes, way: str) -> None:
    site = await serve_nodes(way, game={"command": program("alarm", 2_000, 500), "slow_client": "block"})
    ann = await serve_nodes.join(site, way, "/game/one", receive_buffer=4096)

    await ann.say("go")

    for number in range(2_000):
        assert int(str(await ann.listen()).split()[0]) == number


@every_way
async def test_the_end_of_a_room_a_node_or_a_client_reaches_the_other_side(serve_nodes: ServeNodes, way: str) -> None:
    site = await serve_nodes(way, chat=CAT, game={"command": program("crash", 3)})
    ends = await serve_nodes.join(site, way, "/game/one")
    await ends.say("x")
    assert (await ends.wait_closed())[0] == 1011
    vanishes = await serve_nodes.join(site, way, "/chat/one")
    await vanishes.say("hello")
    await vanishes.hear("hello")
    vanishes.cut()
    await site.wait_no_rooms()
    aborted = await serve_nodes.join(site, way, "/chat/two")
    await aborted.say("hello")
    await aborted.hear("hello")

    for client in site.room("chat", "two").clients.values():
        cast(Client, client).abort()

    assert (await aborted.wait_closed())[0] == 1006
    await wait_idle(site)


@every_way
async def test_a_node_that_drains_closes_the_clients_that_pass_through_it_with_1012(serve_nodes: ServeNodes, way: str) -> None:
    site = await serve_nodes(way, chat=CAT)
    ann = await serve_nodes.join(site, way, "/chat/lobby")
    await ann.say("hello")
    await ann.hear("hello")

    async with asyncio.timeout(5):
        await site.door.service.drain()

    assert await ann.wait_closed() == (NODE_STOPS.code, NODE_STOPS.reason)
    await site.wait_no_rooms()


async def test_messages_right_after_the_request_head_arrive_first(serve_nodes: ServeNodes) -> None:
    site = await serve_nodes(chat=App(name="chat", command=program("echo")))
    texts = [f"message {number}" for number in range(4_000)]
    client = await RawClient.connect(site.port)
    site.raw_clients.append(client)

    client.send(upgrade("/chat/lobby") + b"".join(mask_frame(text.encode()) for text in texts))
    client.say("last")

    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    await client.hear(*texts, "last")


# --- The owner


@pytest.mark.parametrize("way", ["express", "general"])
async def test_a_room_that_has_moved_is_followed(serve_nodes: ServeNodes, way: str) -> None:
    site = await serve_nodes(way, chat=CAT)
    address = site.owner.address
    site.placement.claims = [Claim(address, 1), Claim(address, 2), Claim(address, 3), Claim(address, FENCE)]

    ann = await serve_nodes.join(site, way, "/chat/lobby")
    await ann.say("hello")

    await ann.hear("hello")
    assert site.placement.asked == 3
    assert site.owner.listener.results == {"not_here": 3, "taken": 1}


@pytest.mark.parametrize("way", ["express", "general"])
async def test_a_room_that_moves_too_often_is_given_up(serve_nodes: ServeNodes, way: str) -> None:
    site = await serve_nodes(way, chat=CAT)
    site.placement.claims = [Claim(site.owner.address, 1)]

    client = await serve_nodes.join(site, way, "/chat/lobby")

    assert (await client.wait_closed())[0] == 1013
    assert site.placement.asked == 3


@pytest.mark.parametrize("way", ["express", "general"])
@pytest.mark.parametrize("how", ["drains", "is gone"])
async def test_a_room_whose_node_goes_may_open_here(serve_nodes: ServeNodes, way: str, how: str) -> None:
    site = await serve_nodes(way, chat=CAT)
    site.placement.claims = [Claim(site.owner.address, FENCE), HERE]
    site.owner.decision = Answer.DRAINING
    if how == "is gone":
        site.placement.claims[0] = Claim("127.0.0.1:1", FENCE)

    ann = await serve_nodes.join(site, way, "/chat/lobby")
    await ann.say("hello")

    await ann.hear("hello")
    assert [len(service.gateway.pools["chat"].rooms) for service in site.services] == [1, 0]
    assert site.placement.asked == 1


async def test_a_client_that_leaves_while_its_owner_is_sought_leaves_nothing(serve_nodes: ServeNodes) -> None:
    site = await serve_nodes(chat=CAT)
    for delay in range(6):
        client = await RawClient.connect(site.port)
        client.send(upgrade("/chat/lobby"))
        for _ in range(delay):
            await asyncio.sleep(0)
        await client.close()

    await site.wait_no_rooms()
    await wait_idle(site)


async def test_an_operators_request_reaches_another_node(serve_nodes: ServeNodes) -> None:
    site = await serve_nodes(chat=CAT)

    assert await site.door.client.request(site.owner.address, b"status", timeout=5) == b"response to status"

    site.owner.listener.close()
    with pytest.raises(PeerError):
        await site.door.client.request(site.owner.address, b"status", timeout=0.2)
