"""A connection that is handed over behaves as one that its owner has accepted."""

import asyncio
from typing import cast

import pytest

from scalesocket.config.model import App, Server
from scalesocket.config.units import MiB
from scalesocket.edge.client import Client
from scalesocket.server.hand_over import MAX_REST
from tests.placement.conftest import ServeWorkers
from tests.placement.ways import CAT, Way, every_way, join_by, passing, serve_way, wait_idle
from tests.playing import DEADLINE, program
from tests.raw import FIN, PING, PONG, RawClient, close_payload, mask_frame, upgrade
from tests.server.http2 import open_http2


@every_way
async def test_clients_share_a_room_of_another_worker(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    room = site.name("chat", 1)

    ann = await join_by(site, way, f"/chat/{room}", serve_workers.folder)
    bob = await join_by(site, way, f"/chat/{room}", serve_workers.folder)
    await ann.say("hello")

    await ann.hear("hello")
    await bob.hear("hello")
    assert [len(service.gateway.pools["chat"].rooms) for service in site.services] == [0, 1, 0]
    assert passing(site) == ([0, 0, 0] if way == "socket" else [2, 0, 0])
    assert [service.connections.websockets for service in site.services] == [2 if way == "pump" else 0, 2, 0]
    await ann.leave(4000, "bye")
    await bob.leave()
    await site.wait_no_rooms()
    await wait_idle(site)


@every_way
async def test_a_room_of_the_accepting_worker_is_joined_there(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)

    ann = await join_by(site, way, f"/chat/{site.name('chat', 0)}", serve_workers.folder)
    await ann.say("hello")

    await ann.hear("hello")
    assert passing(site) == [0, 0, 0]
    assert [len(service.gateway.pools["chat"].rooms) for service in site.services] == [1, 0, 0]


@every_way
async def test_long_and_many_messages_pass_in_order(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(
        serve_workers, way, chat=App(name="chat", command=program("echo"), max_message=2 * MiB, max_record=2 * MiB)
    )
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
    texts = [str(number) * (1 + number % 100) for number in range(2_000)]

    await ann.say("x" * MiB)
    for text in texts:
        await ann.say(text)

    await ann.hear("x" * MiB, *texts)


@every_way
async def test_binary_messages_pass(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "binary": True})
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    await ann.say(b"\x00\xff\n")

    await ann.hear(b"\x00\xff\n")


@every_way
async def test_a_newcomer_is_replayed_the_history(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "history": {"size": 2}})
    path = f"/chat/{site.name('chat')}"
    ann = await join_by(site, way, path, serve_workers.folder)
    for text in ("one", "two", "three"):
        await ann.say(text)
    await ann.hear("one", "two", "three")

    bob = await join_by(site, way, path, serve_workers.folder)

    await bob.hear("two", "three")


@every_way
async def test_the_close_of_the_room_reaches_the_client(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, game={"command": program("crash", 3)})

    ann = await join_by(site, way, f"/game/{site.name('game')}", serve_workers.folder)
    await ann.say("x")

    code, reason = await ann.wait_closed()
    assert code == 1011
    assert "exit status" in reason
    await wait_idle(site)


@every_way
async def test_a_client_that_vanishes_leaves_its_room(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
    await ann.say("hello")
    await ann.hear("hello")

    ann.cut()

    await site.wait_no_rooms()
    await wait_idle(site)


@every_way
async def test_a_client_that_its_room_aborts_is_lost(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    room = site.name("chat")
    ann = await join_by(site, way, f"/chat/{room}", serve_workers.folder)
    await ann.say("hello")
    await ann.hear("hello")

    for client in site.room("chat", room).clients.values():
        cast(Client, client).abort()

    assert (await ann.wait_closed())[0] == 1006
    await wait_idle(site)


@every_way
async def test_pings_are_answered_and_sent(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "ping_interval": 0.05, "ping_timeout": 0.8})
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    async with asyncio.timeout(DEADLINE):
        await (await ann.connection.ping())
    await asyncio.sleep(1.1)  # longer than a client may leave pings unanswered

    await ann.say("still here")
    await ann.hear("still here")


@every_way
async def test_too_long_a_message_is_closed_with_1009(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "max_message": 1000})
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    await ann.say("x" * 1001)

    assert (await ann.wait_closed())[0] == 1009
    await wait_idle(site)


@every_way
async def test_a_full_room_is_closed_with_1013(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "max_clients": 1})
    path = f"/chat/{site.name('chat')}"
    await join_by(site, way, path, serve_workers.folder)

    second = await join_by(site, way, path, serve_workers.folder)

    assert await second.wait_closed() == (1013, "the room is full")


@every_way
async def test_the_subprotocol_is_chosen_as_without_workers(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "subprotocols": ["v2", "v1"]})

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder, subprotocols=["v1", "v3"])

    assert ann.connection.subprotocol == "v1"


@pytest.mark.parametrize("is_agreed", [True, False])
async def test_an_owner_with_another_site_keeps_to_the_compression_that_was_answered(
    serve_workers: ServeWorkers, *, is_agreed: bool
) -> None:
    site = await serve_workers(chat=App(name="chat", command=["cat"], compression=is_agreed))
    owner = site.services[1].gateway
    other = owner.site.apps["chat"].model_copy(update={"compression": not is_agreed})
    owner.apply(owner.site.model_copy(update={"apps": {"chat": other}}))

    ann = await site.join(f"/chat/{site.name('chat')}", compression="deflate")
    await ann.say("hello " * 100)

    await ann.hear("hello " * 100)
    assert len(ann.connection.protocol.extensions) == is_agreed


@pytest.mark.parametrize("way", ["socket", "pump"])
async def test_compression_is_agreed_on_with_the_owner(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "compression": True})

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder, compression="deflate")
    await ann.say("hello " * 100)

    await ann.hear("hello " * 100)
    assert [type(extension).__name__ for extension in ann.connection.protocol.extensions] == ["PerMessageDeflate"]


# --- Bytes that are sent early


@pytest.mark.parametrize("count", [3, 4_000], ids=["with the facts", "pumped"])
async def test_messages_right_after_the_request_head_arrive_first_and_in_order(serve_workers: ServeWorkers, count: int) -> None:
    site = await serve_workers(chat=App(name="chat", command=program("echo")))
    texts = [f"message {number}" for number in range(count)]
    early = b"".join(mask_frame(text.encode()) for text in texts)
    assert (len(early) > MAX_REST) == (count > 3)
    client = await RawClient.connect(site.port)
    site.raw_clients.append(client)

    client.send(upgrade(f"/chat/{site.name('chat')}") + early)
    client.say("last")

    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    await client.hear(*texts, "last")


async def test_a_pumped_connection_without_tls_may_half_close(serve_workers: ServeWorkers) -> None:
    site = await serve_workers(chat=App(name="chat", command=program("echo")))
    client = await RawClient.connect(site.port)
    site.raw_clients.append(client)
    client.send(upgrade(f"/chat/{site.name('chat')}") + mask_frame(b"x" * 30_000))
    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    await client.hear("x" * 30_000)
    await site.until(lambda: passing(site) == [1, 0, 0])

    client.writer.write_eof()

    await client.read_end()
    await site.wait_no_rooms()
    await wait_idle(site)


async def test_control_frames_reach_the_owner_of_a_handed_over_socket(serve_workers: ServeWorkers) -> None:
    site = await serve_workers(chat=CAT)
    client = await site.join_raw(f"/chat/{site.name('chat')}")

    client.send(mask_frame(b"are you there", PING))
    assert await client.read_frame() == (FIN | PONG, b"are you there")
    client.send(mask_frame(close_payload(4000, "bye"), 8))

    assert await client.read_close() == (4000, "")
    assert await client.read_end() == b""


# --- HTTP/2


async def test_a_websocket_over_http2_is_relayed(serve_workers: ServeWorkers) -> None:
    site = await serve_workers(Server(http2_websockets=True), chat=CAT)
    path = f"/chat/{site.name('chat')}"
    async with open_http2(site.port) as http2:
        ann, bob = await http2.join(path), await site.join(path)

        await ann.say("hello")
        await bob.hear("hello")
        assert await ann.listen() == "hello"
        await bob.say("hi")
        assert await ann.listen() == "hi"
        ann.reset()
        await site.until(lambda: len(site.room("chat", path.rpartition("/")[2]).clients) == 1)
