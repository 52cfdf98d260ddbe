"""Many pipes on one poller."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from scalesocket.io.poller import EVENTS_PER_ITERATION, Poller
from tests.playing import until

pytestmark = pytest.mark.anyio


class Pipe:
    """A pipe whose read end is watched."""

    def __init__(self, poller: Poller) -> None:
        self.fd, self.write_end = os.pipe()
        self.poller = poller
        self.chunks: list[bytes] = []
        poller.add_reader(self.fd, self.read)

    def read(self) -> None:
        self.chunks.append(os.read(self.fd, 100))

    def write(self, text: bytes) -> None:
        os.write(self.write_end, text)

    def close(self) -> None:
        self.poller.remove_reader(self.fd)
        os.close(self.fd)
        os.close(self.write_end)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def poller(stack: ExitStack) -> Poller:
    return stack.enter_context(closing(Poller(asyncio.get_running_loop())))


@pytest.fixture
def pipes(stack: ExitStack, poller: Poller) -> list[Pipe]:
    return [stack.enter_context(closing(Pipe(poller))) for _ in range(3 * EVENTS_PER_ITERATION)]


async def test_each_pipe_is_read_when_it_is_readable(pipes: list[Pipe]) -> None:
    pipes[0].write(b"a")
    pipes[2].write(b"c")

    await until(lambda: bool(pipes[0].chunks and pipes[2].chunks))

    assert [pipe.chunks for pipe in pipes[:3]] == [[b"a"], [], [b"c"]]


async def test_more_pipes_than_one_iteration_serves_are_all_read(pipes: list[Pipe]) -> None:
    for pipe in pipes:
        pipe.write(b"x")

    await until(lambda: all(pipe.chunks == [b"x"] for pipe in pipes))


async def test_pipes_that_are_always_readable_do_not_starve_the_others(pipes: list[Pipe]) -> None:
    for pipe in pipes[1:]:
        pipe.read = lambda: None  # type: ignore[method-assign]  # so it stays readable
        pipe.poller.remove_reader(pipe.fd)
        pipe.poller.add_reader(pipe.fd, pipe.read)
        pipe.write(b"x")
    pipes[0].write(b"y")

    await until(lambda: pipes[0].chunks == [b"y"])


async def test_a_pipe_removed_by_the_callback_of_another_is_not_read(poller: Poller, pipes: list[Pipe]) -> None:
    first, second = pipes[:2]

    def remove_the_other(pipe: Pipe, other: Pipe) -> None:
        pipe.read()
        poller.remove_reader(other.fd)

    for pipe, other in ((first, second), (second, first)):
        poller.remove_reader(pipe.fd)
        poller.add_reader(pipe.fd, lambda pipe=pipe, other=other: remove_the_other(pipe, other))  # type: ignore[misc]
        pipe.write(b"x")

    await until(lambda: bool(first.chunks or second.chunks))
    await asyncio.sleep(0)

    assert sorted([first.chunks, second.chunks]) == [[], [b"x"]]


async def test_a_callback_that_raises_is_reported_and_the_others_are_called(poller: Poller, pipes: list[Pipe]) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    poller.remove_reader(pipes[0].fd)

    def fail() -> None:
        poller.remove_reader(pipes[0].fd)
        raise ValueError("a bug")

    poller.add_reader(pipes[0].fd, fail)
    for pipe in pipes[:3]:
        pipe.write(b"x")

    await until(lambda: bool(pipes[1].chunks and pipes[2].chunks))

    asyncio.get_running_loop().set_exception_handler(None)
    assert [str(report["exception"]) for report in reports] == ["a bug"]


async def test_the_end_of_the_file_is_read(pipes: list[Pipe]) -> None:
    os.close(pipes[0].write_end)

    await until(lambda: pipes[0].chunks != [])

    assert pipes[0].chunks[0] == b""
    pipes[0].write_end = os.open(os.devnull, os.O_WRONLY)


async def test_nothing_is_read_after_a_close(poller: Poller, pipes: list[Pipe]) -> None:
    poller.close()
    pipes[0].write(b"x")

    await asyncio.sleep(0.05)

    assert pipes[0].chunks == []
