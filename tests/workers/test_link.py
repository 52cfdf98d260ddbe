"""The link between the supervisor and a worker, over a socket pair in one process."""

import asyncio
import socket
import struct
from typing import Any

import msgspec
import pytest

from scalesocket.errors import ScalesocketError
from scalesocket.workers import link as link_module
from scalesocket.workers.link import (
    Handlers,
    LinkBusyError,
    LinkError,
    LinkLostError,
    LinkTimeoutError,
    open_link,
)
from tests.workers.linking import open_pair

pytestmark = pytest.mark.anyio


class Add(msgspec.Struct):
    one: int
    other: int


class Note(msgspec.Struct):
    text: str


class Wait(msgspec.Struct):
    pass


class NoSuchThingError(ScalesocketError):
    pass


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_both_ends_call_and_get_answers_of_the_type_they_ask_for() -> None:
    handlers = Handlers()
    handlers.add(Add, lambda add: add.one + add.other)

    async with open_pair(handlers, handlers) as (near, far):
        results = await asyncio.gather(*(link.call(Add(number, 1), int) for number in range(50) for link in (near, far)))

    assert results == [number + 1 for number in range(50) for _ in range(2)]


async def test_notifications_arrive_in_order_and_before_a_later_call() -> None:
    heard: list[str] = []
    handlers = Handlers()
    handlers.add(Note, lambda note: heard.append(note.text))
    handlers.add(Wait, lambda _: list(heard))

    async with open_pair(Handlers(), handlers) as (near, _):
        for number in range(100):
            assert near.notify(Note(str(number)))
        answer = await near.call(Wait(), list[str])

    assert answer == [str(number) for number in range(100)]


async def test_a_message_that_arrives_while_the_link_is_opened_is_handled_when_the_caller_has_the_link() -> None:
    arrived: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    handlers = Handlers()
    handlers.add(Wait, lambda _: arrived.set_result(here.is_open))
    one, other = socket.socketpair()

    async with open_link(other, Handlers(), peer="the supervisor") as there:
        there.notify(Wait())
        await asyncio.sleep(0)
        async with open_link(one, handlers, peer="worker 1") as here, asyncio.timeout(5):
            assert await arrived


async def test_an_error_of_a_handler_reaches_the_caller_with_its_kind() -> None:
    async def refuse(_: Wait) -> None:
        raise NoSuchThingError("there is no such thing")

    handlers = Handlers()
    handlers.add(Wait, refuse)
    handlers.add(Add, lambda add: add.one / 0)

    async with open_pair(Handlers(), handlers) as (near, _):
        with pytest.raises(LinkError, match="there is no such thing") as refused:
            await near.call(Wait(), int)
        with pytest.raises(LinkError, match=r"Add failed \(ZeroDivisionError"):
            await near.call(Add(1, 2), int)
        with pytest.raises(LinkError, match="no handler for Note"):
            await near.call(Note("?"), int)

    assert refused.value.kind == "NoSuchThingError"


async def test_an_answer_of_another_type_is_an_error() -> None:
    handlers = Handlers()
    handlers.add(Add, lambda add: "three")

    async with open_pair(Handlers(), handlers) as (near, _):
        with pytest.raises(LinkError, match="worker 1 gave an invalid answer to Add"):
            await near.call(Add(1, 2), int)


async def test_a_call_has_a_deadline_and_a_late_answer_is_ignored() -> None:
    release = asyncio.Event()

    async def wait(_: Wait) -> int:
        await release.wait()
        return 1

    handlers = Handlers()
    handlers.add(Wait, wait)
    handlers.add(Add, lambda add: add.one + add.other)

    async with open_pair(Handlers(), handlers) as (near, _):
        with pytest.raises(LinkTimeoutError):
            await near.call(Wait(), int, timeout=0.05)
        release.set()

        assert await near.call(Add(1, 2), int) == 3


async def test_pending_calls_fail_when_the_peer_ends_and_its_handlers_are_cancelled() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(_: Wait) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 1

    handlers = Handlers()
    handlers.add(Wait, wait)

    async with open_pair(Handlers(), handlers) as (near, far):
        call = asyncio.create_task(near.call(Wait(), int))
        await asyncio.wait_for(started.wait(), 5)
        far.close()
        with pytest.raises(LinkLostError):
            await asyncio.wait_for(call, 5)
        await asyncio.wait_for(near.lost, 5)
        await asyncio.wait_for(cancelled.wait(), 5)

        assert not near.notify(Note("too late"))
        with pytest.raises(LinkLostError):
            await near.call(Wait(), int)


async def test_a_peer_that_does_not_read_costs_a_bounded_amount_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_UNSENT", 1 << 20)
    one, other = socket.socketpair()

    async with open_link(one, Handlers(), peer="worker 1") as near:
        sent = 0
        while near.notify(Note("x" * 65536)):
            sent += 1
            assert sent < 100
        with pytest.raises(LinkBusyError):
            await near.call(Wait(), int)
    other.close()


async def test_a_message_that_is_too_long_is_refused_and_the_link_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_FRAME", 1 << 20)
    handlers = Handlers()
    handlers.add(Wait, lambda _: "x" * (1 << 20))
    handlers.add(Add, lambda add: add.one + add.other)

    async with open_pair(Handlers(), handlers) as (near, _):
        with pytest.raises(LinkError, match="too long for a link"):
            await near.call(Note("x" * (1 << 20)), int)
        with pytest.raises(LinkError, match="too long for a link"):
            await near.call(Wait(), str)

        assert await near.call(Add(1, 2), int) == 3


@pytest.mark.parametrize("rubbish", [struct.pack("!I", 1 << 30), struct.pack("!I", 2) + b"\xc1\xc1"])
async def test_invalid_bytes_end_the_link(rubbish: bytes) -> None:
    one, other = socket.socketpair()

    async with open_link(one, Handlers(), peer="worker 1") as near:
        other.sendall(rubbish)
        await asyncio.wait_for(near.lost, 5)
        assert not near.is_open
    other.close()


async def test_frames_may_arrive_in_pieces() -> None:
    heard: list[str] = []
    is_done = asyncio.Event()

    def note_heard(note: Note) -> None:
        heard.append(note.text)
        if len(heard) == 2:
            is_done.set()

    handlers = Handlers()
    handlers.add(Note, note_heard)
    frame = msgspec.msgpack.encode(link_module.Envelope(0, "Note", msgspec.Raw(msgspec.msgpack.encode(Note("hello")))))
    one, other = socket.socketpair()

    async with open_link(one, handlers, peer="worker 1"):
        for byte in (struct.pack("!I", len(frame)) + frame) * 2:
            other.sendall(bytes([byte]))
            await asyncio.sleep(0)
        await asyncio.wait_for(is_done.wait(), 5)
    other.close()

    assert heard == ["hello", "hello"]
