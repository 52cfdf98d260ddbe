"""A connection that is handed over behaves as one that its owner has accepted."""

import asyncio
import os
from typing import Any, cast

import pytest
import websockets

from scalesocket.config.model import App, Server
from scalesocket.config.units import MiB
from scalesocket.edge.client import Client
from scalesocket.placement.facts import Facts
from scalesocket.placement.inbox import Outbox
from scalesocket.placement.placement import HERE, Settle
from scalesocket.server.hand_over import MAX_REST
from scalesocket.server.service import Service
from tests.placement.conftest import ServeWorkers
from tests.placement.kit import Workers
from tests.placement.ways import Way, every_way, join_by, serve_way, trust
from tests.playing import DEADLINE, program
from tests.raw import FIN, PING, PONG, RawClient, close_payload, mask_frame, upgrade
from tests.server.http2 import open_http2

CAT = {"command": ["cat"]}
GATES = {"command": ["cat"], "binary": True}


def passing(site: Workers) -> list[int]:
    """Connections that pass through each worker, on their way to another one."""
    return [len(service.connections.passages) for service in site.services]


def is_idle(service: Service) -> bool:
    """Whether no connection is left, nor counted."""
    connections = service.connections
    return (
        not (connections.transports or connections.websockets or connections.passages)
        and connections.hypercorn.open_connections == 0
    )


async def wait_idle(site: Workers) -> None:
    await site.until(lambda: all(map(is_idle, site.services)))


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
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "ping_interval": 0.05, "ping_timeout": 0.3})
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    async with asyncio.timeout(DEADLINE):
        await (await ann.connection.ping())
    await asyncio.sleep(0.6)  # longer than a client may leave pings unanswered

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


@every_way
async def test_a_client_that_reads_slowly_gets_everything(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, game={"command": program("alarm", 2_000, 500), "slow_client": "block"})
    ann = await join_by(site, way, f"/game/{site.name('game')}", serve_workers.folder, receive_buffer=4096)

    await ann.say("go")

    for number in range(2_000):
        assert int(str(await ann.listen()).split()[0]) == number


@pytest.mark.parametrize("way", ["pump", "relay"])
async def test_a_client_that_takes_nothing_is_cut(serve_workers: ServeWorkers, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.server.closing.CLOSE_TIMEOUT", 0.1)
    app = {
        "command": program("alarm", 20_000, 500),
        "slow_client": "close",
        "send_buffer": 64 * 1024,
        "stall_timeout": 0.3,
        "stop_timeout": 0.1,
    }
    site = await serve_way(serve_workers, way, game=app)
    ann = await join_by(site, way, f"/game/{site.name('game')}", serve_workers.folder, receive_buffer=4096)

    await ann.say("go")

    await site.wait_no_rooms()
    await site.until(lambda: all(map(is_idle, site.services)), within=20)
    assert (await ann.wait_closed())[0] in (1006, 1013)


@pytest.mark.parametrize("way", ["pump", "relay"])
async def test_a_worker_that_drains_closes_what_passes_through_it(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    room = site.name("chat")
    ann = await join_by(site, way, f"/chat/{room}", serve_workers.folder)
    await ann.say("hello")
    await ann.hear("hello")

    async with asyncio.timeout(5):
        await site.services[0].drain()

    assert await ann.wait_closed() == (1012, "this worker of the server is replaced: connect again")
    assert passing(site) == [0, 0, 0]
    await site.until(lambda: room not in site.gateway.pools["chat"].rooms)


@every_way
async def test_a_drain_of_all_workers_closes_everyone_with_1001(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    paths = [f"/chat/{site.name('chat', worker)}" for worker in (0, 1, 2)]
    players = [await join_by(site, way, path, serve_workers.folder) for path in paths]

    async with asyncio.timeout(5):
        await site.service.drain()

    assert [await player.wait_closed() for player in players] == [(1001, "the server is shutting down")] * 3


@every_way
async def test_a_cut_ends_what_passes_through(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
    await ann.say("hello")
    await ann.hear("hello")

    site.service.cut()

    assert (await ann.wait_closed())[0] in (1001, 1006)
    await wait_idle(site)


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


# --- An owner that is busy


class Busy:
    """An owner that takes no connection: at once, or after a while."""

    def __init__(self, answer: Any, *, is_behind: bool) -> None:
        self.answer = answer
        self.is_behind = is_behind

    def hand_over(self, facts: Facts, fd: int) -> Any:
        return self.answer

    def post(self, facts: Facts, fd: int, settle: Settle) -> None:
        settle(self.hand_over(facts, fd))


def make_busy(site: Workers, answer: Any, *, is_behind: bool = True) -> None:
    for service in site.services:
        placement = service.connections.placement
        owner = Busy(answer, is_behind=is_behind)
        placement._places = (placement._places[0], owner, owner)  # type: ignore[union-attr]


@every_way
@pytest.mark.parametrize("is_late", [False, True])
async def test_with_a_busy_owner_upgrades_are_503_and_those_of_pages_are_closed_with_1013(
    serve_workers: ServeWorkers, way: Way, *, is_late: bool
) -> None:
    site = await serve_way(serve_workers, way, chat={"command": ["cat"], "origins": ["*"]})
    answer: Any = asyncio.get_running_loop().create_future() if is_late else False
    make_busy(site, answer)
    path = f"/chat/{site.name('chat')}"

    program_joins = asyncio.create_task(join_by(site, way, path, serve_workers.folder))
    page_joins = asyncio.create_task(join_by(site, way, path, serve_workers.folder, origin="http://example.org"))
    if is_late:
        await asyncio.sleep(0.1)
        assert not program_joins.done()
        answer.set_result(False)

    with pytest.raises(websockets.InvalidStatus) as refused:
        await program_joins
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "5"
    assert await (await page_joins).wait_closed() == (1013, "the server is busy: try again later")
    assert site.services[0].gateway.pools["chat"].refusals == {"owner_busy": 2}
    await wait_idle(site)


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_connection_that_is_answered_before_its_owner_is_found_busy_is_closed_with_1013(
    serve_workers: ServeWorkers, *, is_late: bool
) -> None:
    site = await serve_workers(chat=CAT)
    answer: Any = asyncio.get_running_loop().create_future() if is_late else False
    make_busy(site, answer, is_behind=False)

    ann = await site.join(f"/chat/{site.name('chat')}")
    if is_late:
        answer.set_result(False)

    assert await ann.wait_closed() == (1013, "the server is busy: try again later")
    assert site.services[0].gateway.pools["chat"].refusals == {"owner_busy": 1}
    await wait_idle(site)


@pytest.mark.parametrize("fault", ["partial", "reset"])
async def test_a_connection_whose_answer_is_not_written_whole_is_cut_and_not_handed_over(
    serve_workers: ServeWorkers, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    site = await serve_workers(chat=CAT)
    handed: list[Facts] = []

    class Taking(Busy):
        def hand_over(self, facts: Facts, fd: int) -> bool:
            handed.append(facts)
            return True

    placement = site.services[0].connections.placement
    placement._places = (HERE, *[Taking(True, is_behind=False)] * 2)  # type: ignore[union-attr]

    def write(fd: int, text: bytes, real: Any = os.write) -> int:
        if not text.startswith(b"HTTP/1.1 101"):
            return int(real(fd, text))
        if fault == "reset":
            raise ConnectionResetError
        return int(real(fd, text[:40]))

    client = await RawClient.connect(site.port)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        client.send(upgrade(f"/chat/{site.name('chat')}"))
        answer = await client.read_end()

    assert answer == (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade"[:40] if fault == "partial" else b"")
    assert not handed
    await wait_idle(site)
    await client.close()


async def test_connections_that_are_cut_before_they_are_sent_are_forgotten(serve_workers: ServeWorkers) -> None:
    site = await serve_workers(chat=CAT)
    service, posted = site.services[0], []

    class Posting(Busy):
        def post(self, facts: Facts, fd: int, settle: Settle) -> None:
            service.connections.cut_all()
            settle(self.answer)
            posted.append(facts)

    for answer in (True, False, asyncio.get_running_loop().create_future()):
        service.connections.placement._places = (HERE, *[Posting(answer, is_behind=False)] * 2)  # type: ignore[union-attr]
        client = await RawClient.connect(site.port)
        client.send(upgrade(f"/chat/{site.name('chat')}"))

        assert (await client.read_end()).startswith(b"HTTP/1.1 101")
        await wait_idle(site)
        await client.close()

    assert len(posted) == 3
    assert answer.cancelled()  # type: ignore[union-attr]
    assert not serve_workers.logged("answering an upgrade failed")


@pytest.mark.parametrize("way", ["socket", "pump"])
async def test_a_connection_waits_until_its_owner_has_taken_it(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    site.inboxes[1].stop()
    path = f"/chat/{site.name('chat')}"
    first = asyncio.create_task(join_by(site, way, path, serve_workers.folder))
    await asyncio.sleep(0.1)
    assert first.done() == (way == "socket")  # it is answered by the worker that accepted it

    inbox = site.inboxes[1]._inbox
    inbox._poller.add_reader(inbox._sock.fileno(), inbox._read)

    ann = await first
    await ann.say("hello")
    await ann.hear("hello")


class Late:
    """An owner that takes connections only after `release`."""

    def __init__(self, outbox: Outbox, *, is_behind: bool) -> None:
        self.outbox = outbox
        self.is_behind = is_behind
        self.waiting: list[tuple[Facts, int, asyncio.Future[bool]]] = []

    def hand_over(self, facts: Facts, fd: int) -> "asyncio.Future[bool]":
        sent: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting.append((facts, os.dup(fd), sent))
        return sent

    def post(self, facts: Facts, fd: int, settle: Settle) -> None:
        settle(self.hand_over(facts, fd))

    def release(self) -> None:
        for facts, fd, sent in self.waiting:
            sent.set_result(self.outbox.send(facts, fd) is True)
            os.close(fd)


@pytest.mark.parametrize(("way", "is_behind"), [("socket", False), ("socket", True), ("pump", True)])
async def test_what_a_client_sends_while_it_waits_for_its_owner_arrives_in_order(
    serve_workers: ServeWorkers, way: Way, *, is_behind: bool
) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    owner = Late(site.outboxes[1], is_behind=is_behind)
    placement = site.services[0].connections.placement
    placement._places = (HERE, owner, owner)  # type: ignore[union-attr]
    client = await RawClient.connect(site.port)
    site.raw_clients.append(client)
    if way == "pump":
        await client.writer.start_tls(trust(serve_workers.folder), server_hostname="localhost")
    client.send(upgrade(f"/chat/{site.name('chat')}") + mask_frame(b"one"))
    await site.until(lambda: len(owner.waiting) == 1)
    client.say("two")
    await asyncio.sleep(0.05)
    client.say("three")

    owner.release()

    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    await client.hear("one", "two", "three")


@pytest.mark.parametrize("way", ["socket", "pump"])
async def test_a_client_that_leaves_while_its_owner_is_busy_is_forgotten(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    make_busy(site, answer)
    client = await RawClient.connect(site.port)
    if way == "pump":
        await client.writer.start_tls(trust(serve_workers.folder), server_hostname="localhost")
    client.send(upgrade(f"/chat/{site.name('chat')}"))
    await site.until(lambda: len(site.services[0].connections.transports) == 1)
    await asyncio.sleep(0.05)

    site.services[0].connections.cut_all()
    await client.close()

    await site.until(answer.cancelled)
    await wait_idle(site)


# --- Edits


@every_way
async def test_a_connection_admitted_by_a_newer_site_waits_for_that_edit(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    site.services[0].gateway.reload_state.advance(2, 0.0)
    joining = asyncio.create_task(join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder))
    await asyncio.sleep(0.1)
    assert not site.services[1].gateway.pools["chat"].rooms

    site.services[1].gateway.reload_state.advance(2, 0.0)

    ann = await joining
    await ann.say("hello")
    await ann.hear("hello")


@every_way
async def test_an_edit_that_never_comes_closes_the_connection_with_1013(
    serve_workers: ServeWorkers, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalesocket.server.owner.HOLD_TIMEOUT", 0.1)
    site = await serve_way(serve_workers, way, chat=CAT)
    site.services[0].gateway.reload_state.advance(2, 0.0)

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    assert await ann.wait_closed() == (1013, "the server is busy: try again later")
    await wait_idle(site)


@every_way
async def test_a_connection_to_an_app_that_its_owner_does_not_have_is_closed_as_removed(
    serve_workers: ServeWorkers, way: Way
) -> None:
    site = await serve_way(serve_workers, way, chat=CAT, other=CAT)
    owner = site.services[1].gateway
    owner.apply(owner.site.model_copy(update={"apps": {"other": owner.site.apps["other"]}}))

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    assert await ann.wait_closed() == (1001, "the app was removed")
    await wait_idle(site)


@every_way
async def test_the_settings_of_the_owner_count(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    owner = site.services[1].gateway
    small = owner.site.apps["chat"].model_copy(update={"max_message": 10})
    owner.apply(owner.site.model_copy(update={"apps": {"chat": small}}))

    ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
    await ann.say("more than ten")

    assert (await ann.wait_closed())[0] == 1009


# --- Descriptors


@every_way
async def test_a_connection_with_one_of_the_last_descriptors_is_refused(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    site.services[1].connections.first_reserved = 0
    site.services[1].connections._first_kept = lambda: 1_000_000  # type: ignore[method-assign]

    if way != "pump":  # it is answered before
        ann = await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
        assert (await ann.wait_closed())[0] == 1013
    else:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)
        assert refused.value.response.status_code == 503
    assert site.services[1].gateway.refusals == {"descriptors": 1}
    await wait_idle(site)


@pytest.mark.parametrize("way", ["pump", "relay"])
async def test_without_descriptors_for_a_pair_an_upgrade_is_503(serve_workers: ServeWorkers, way: Way) -> None:
    site = await serve_way(serve_workers, way, chat=CAT)
    monkey = pytest.MonkeyPatch()

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkey.context() as patch:
        for module in ("hand_over", "relayed_upgrade"):
            patch.setattr(f"scalesocket.server.{module}.open_pair", fail)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await join_by(site, way, f"/chat/{site.name('chat')}", serve_workers.folder)

    assert refused.value.response.status_code == 503
    assert site.services[0].gateway.pools["chat"].refusals == {"descriptors": 1}


async def test_the_last_places_of_an_address_are_decided_before_the_upgrade_is_answered(serve_workers: ServeWorkers) -> None:
    site = await serve_workers(Server(max_connections_per_ip=3), chat=CAT)
    room = site.name("chat", 1)
    clients = [await RawClient.connect(site.port) for _ in range(10)]

    for client in clients:  # all are admitted before the first of them joins
        client.send(upgrade(f"/chat/{room}"))

    statuses = sorted([(await client.read_head()).split()[1] for client in clients])
    assert statuses == ["101"] * 3 + ["429"] * 7
    assert sum(service.gateway.pools["chat"].refusals["too_many_from_address"] for service in site.services) == 7
    for client in clients:
        await client.close()
    await site.wait_no_rooms()
    await wait_idle(site)
