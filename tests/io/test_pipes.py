"""Both ends of a pipe, used by the event loop, with the other end held by the test."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from scalesocket.io.pipes import HIGH_WATER, MAX_LEFTOVER, READ_SIZE, PipeReader, PipeWriter
from scalesocket.io.poller import Poller
from tests.playing import until

pytestmark = pytest.mark.anyio


class Written:
    """A pipe that is written by a `PipeWriter`, and what that reports."""

    def __init__(self, poller: Poller) -> None:
        self.read_end, write_end = os.pipe2(os.O_NONBLOCK)
        self.events: list[str] = []
        self.writer = PipeWriter(
            write_end,
            poller=poller,
            on_blocked=lambda: self.events.append("blocked"),
            on_unblocked=lambda: self.events.append("unblocked"),
        )

    async def read(self, size: int) -> bytes:
        """Read so many bytes, or up to the end of the file."""
        data = b""
        async with asyncio.timeout(10):
            while len(data) < size:
                try:
                    chunk = os.read(self.read_end, size - len(data))
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                    continue
                if not chunk:
                    break
                data += chunk
        return data

    def close_read_end(self) -> None:
        os.close(self.read_end)
        self.read_end = -1


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def poller(anyio_backend: object) -> AsyncIterator[Poller]:
    with closing(Poller(asyncio.get_running_loop())) as poller:
        yield poller


@pytest.fixture
async def pipe(poller: Poller) -> AsyncIterator[Written]:
    pipe = Written(poller)
    yield pipe
    pipe.writer.abort()
    if pipe.read_end >= 0:
        pipe.close_read_end()


async def test_writes_of_one_iteration_arrive_in_order(pipe: Written) -> None:
    records = [b"%d," % number for number in range(200)]

    assert all(pipe.writer.write(record) for record in records)

    assert await pipe.read(len(b"".join(records))) == b"".join(records)


async def test_a_full_queue_blocks_its_owner_until_it_is_read(pipe: Written) -> None:
    text = os.urandom(2 * HIGH_WATER)

    pipe.writer.write(text)
    assert pipe.events == ["blocked"]
    assert pipe.writer.unsent > HIGH_WATER

    assert await pipe.read(len(text)) == text
    await until(lambda: pipe.events == ["blocked", "unblocked"])
    assert pipe.writer.unsent == 0


async def test_many_writes_of_one_iteration_are_offered_to_the_kernel_before_the_owner_is_blocked(pipe: Written) -> None:
    record = bytes(HIGH_WATER // 16)

    for _ in range(17):  # a pipe holds a quarter of them
        pipe.writer.write(record)

    assert pipe.events == []
    assert await pipe.read(17 * len(record)) == 17 * record


async def test_a_close_waits_for_the_queue(pipe: Written) -> None:
    text = os.urandom(HIGH_WATER)
    pipe.writer.write(text)

    pipe.writer.close()

    assert not pipe.writer.write(b"too late")
    assert await pipe.read(2 * len(text)) == text


async def test_an_abort_discards_the_queue_and_unblocks_the_owner(pipe: Written) -> None:
    text = os.urandom(2 * HIGH_WATER)
    pipe.writer.write(text)

    pipe.writer.abort()

    assert pipe.events == ["blocked", "unblocked"]
    assert pipe.writer.unsent == 0
    assert pipe.writer.reclaim() == []
    assert len(await pipe.read(len(text))) < len(text)


async def test_writes_that_no_reader_has_begun_are_reclaimed(pipe: Written) -> None:
    begun, queued = os.urandom(2 * HIGH_WATER), b"queued"
    pipe.writer.write(begun)
    pipe.writer.write(queued)

    pipe.close_read_end()
    await until(lambda: pipe.events == ["blocked", "unblocked"])

    assert not pipe.writer.write(b"too late")
    assert pipe.writer.unsent == 0
    assert pipe.writer.reclaim() == [queued]
    assert pipe.writer.reclaim() == []


async def test_reclaimed_writes_keep_their_type(pipe: Written) -> None:
    class Marked(bytes):
        """Bytes that their owner recognizes."""

    queued = Marked(b"queued")
    pipe.writer.write(os.urandom(2 * HIGH_WATER))
    pipe.writer.write(queued)

    [reclaimed] = pipe.writer.reclaim()

    assert reclaimed is queued


async def test_a_write_after_the_reader_has_closed_is_reclaimed(pipe: Written) -> None:
    pipe.close_read_end()

    assert pipe.writer.write(b"hello")

    assert pipe.writer.reclaim() == [b"hello"]
    assert not pipe.writer.write(b"too late")


async def test_a_paused_reader_reads_nothing_until_it_is_resumed(poller: Poller) -> None:
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    chunks: list[bytes] = []
    reader = PipeReader(read_end, poller=poller, on_chunk=chunks.append)
    os.write(write_end, b"one")
    await until(lambda: chunks == [b"one"])

    reader.pause()
    os.write(write_end, b"two")
    await asyncio.sleep(0.01)
    assert chunks == [b"one"]
    assert (reader.taken, reader.unread) == (3, 3)

    reader.resume()
    await until(lambda: chunks == [b"one", b"two"])
    os.close(write_end)
    await reader.is_drained.wait()


async def test_the_rest_that_is_read_from_an_endless_writer_is_bounded(poller: Poller) -> None:
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    chunks: list[bytes] = []

    def refill(chunk: bytes) -> None:
        chunks.append(chunk)
        os.write(write_end, chunk)

    os.write(write_end, bytes(READ_SIZE))
    reader = PipeReader(read_end, poller=poller, on_chunk=refill)
    reader.finish()

    assert reader.is_drained.is_set()
    assert sum(map(len, chunks)) == MAX_LEFTOVER
    os.close(write_end)
