"""A tail of rooms in several workers, over links in one process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from scalesocket.control.messages import Outcome
from scalesocket.workers.link import Handlers, Link
from scalesocket.workers.merged_tail import MergedTail, WorkerTail
from scalesocket.workers.site_messages import ReadTail, Release, TailLines
from tests.workers.linking import open_pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


class Worker:
    """The other end of a link: a worker with one tail."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.asked = 0
        self.released = asyncio.Event()
        self.link: Link

    def handlers(self) -> Handlers:
        handlers = Handlers()
        handlers.add(ReadTail, self.read)
        handlers.add(Release, lambda _: self.released.set())
        return handlers

    async def read(self, message: ReadTail) -> TailLines:
        self.asked += 1
        assert message.held == 7
        return TailLines(await self.lines.get())


@asynccontextmanager
async def open_tail(count: int) -> AsyncIterator[tuple[MergedTail, Sequence[Worker]]]:
    async with AsyncExitStack() as stack:
        workers, parts = [], []
        for _ in range(count):
            worker = Worker()
            near, worker.link = await stack.enter_async_context(open_pair(Handlers(), worker.handlers()))
            workers.append(worker)
            parts.append(WorkerTail(near, 7, rooms=2))
        yield MergedTail(Outcome(rooms=2 * count, clients=0), parts), workers


async def read(tail: MergedTail) -> bytes | None:
    return await asyncio.wait_for(tail.read(), 10)


async def test_the_events_of_all_workers_come_in_turn_until_the_last_has_no_more() -> None:
    async with open_tail(3) as (tail, workers):
        for name, worker in zip((b"a", b"b", b"c"), workers, strict=True):
            for number in range(3):
                worker.lines.put_nowait(b"%s%d\n" % (name, number))
            worker.lines.put_nowait(None)

        lines = [await read(tail) for _ in range(9)]

        assert {*lines[:3]} == {b"a0\n", b"b0\n", b"c0\n"}
        assert [line for line in lines if line is not None and line[:1] == b"b"] == [b"b0\n", b"b1\n", b"b2\n"]
        assert await read(tail) is None
        for worker in workers:
            await asyncio.wait_for(worker.released.wait(), 10)


async def test_a_worker_is_asked_for_more_only_when_it_was_read() -> None:
    async with open_tail(1) as (tail, (worker,)):
        for number in range(10):
            worker.lines.put_nowait(b"%d\n" % number)

        assert await read(tail) == b"0\n"
        await asyncio.sleep(0.05)

        assert worker.asked == 1


async def test_a_reader_that_gives_up_for_a_while_loses_nothing() -> None:
    async with open_tail(2) as (tail, workers):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(tail.read(), 0.01)
        workers[1].lines.put_nowait(b"late\n")

        assert await read(tail) == b"late\n"
        assert [worker.asked for worker in workers] == [1, 1]


async def test_a_worker_that_ends_is_reported_and_the_others_go_on() -> None:
    async with open_tail(2) as (tail, workers):
        workers[0].link.close()

        lost = msgspec.json.decode(await read(tail) or b"")
        assert (lost["event"], lost["count"]) == ("lost", 2)
        workers[1].lines.put_nowait(b"on\n")
        assert await read(tail) == b"on\n"
        workers[1].link.close()
        assert b"lost" in (await read(tail) or b"")
        assert await read(tail) is None


async def test_closing_it_ends_the_tails_in_all_workers() -> None:
    async with open_tail(2) as (tail, workers):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tail.read(), 0.01)

        tail.close()
        tail.close()

        for worker in workers:
            await asyncio.wait_for(worker.released.wait(), 10)
        assert await read(tail) is None
