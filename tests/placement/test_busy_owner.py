"""Connections whose owner takes none at the moment: they wait in order, or are refused."""

import asyncio
import os
from typing import Any

import pytest
import websockets

from scalesocket.placement.facts import Facts
from scalesocket.placement.inbox import Outbox
from scalesocket.placement.placement import HERE, OnSent
from tests.placement.conftest import ServeWorkers
from tests.placement.kit import Workers
from tests.placement.ways import CAT, Way, every_way, join_by, serve_way, trust, wait_idle
from tests.raw import RawClient, mask_frame, upgrade


class Busy:
    """An owner that takes no connection: at once, or after a while."""

    def __init__(self, answer: Any, *, is_behind: bool) -> None:
        self.answer = answer
        self.is_behind = is_behind

    def hand_over(self, facts: Facts, fd: int) -> Any:
        return self.answer

    def post(self, facts: Facts, fd: int, on_sent: OnSent) -> None:
        on_sent(self.hand_over(facts, fd))


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
        def post(self, facts: Facts, fd: int, on_sent: OnSent) -> None:
            service.connections.cut_all()
            on_sent(self.answer)
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
    if way == "socket":
        await site.until(first.done)  # it is answered by the worker that accepted it
    else:
        await asyncio.sleep(0.1)
        assert not first.done()

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

    def post(self, facts: Facts, fd: int, on_sent: OnSent) -> None:
        on_sent(self.hand_over(facts, fd))

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
