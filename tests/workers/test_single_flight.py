"""Answers that are shared."""

import asyncio
from typing import Any

import pytest

from scalesocket.workers.single_flight import MAX_KEPT, SingleFlight

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


class Source:
    """What is asked, and how often it was."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def find(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        return number


async def test_concurrent_questions_share_one_answer_even_if_the_first_is_cancelled() -> None:
    source, flights = Source(), SingleFlight[int](lifetime=0.0)
    asking = [asyncio.create_task(flights.ask("a", source.find)) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    source.may_answer.set()

    assert await asyncio.gather(*asking[1:]) == [1, 1]
    assert asking[0].cancelled()


async def test_an_answer_is_used_again_for_a_moment() -> None:
    source, lasting, brief = Source(), SingleFlight[int](lifetime=60.0), SingleFlight[int](lifetime=0.0)
    source.may_answer.set()

    assert [await lasting.ask("a", source.find) for _ in range(3)] == [1, 1, 1]
    assert await lasting.ask("b", source.find) == 2
    assert [await brief.ask("a", source.find) for _ in range(2)] == [3, 4]


async def test_an_error_is_not_kept() -> None:
    source, flights = Source(), SingleFlight[int](lifetime=60.0)
    source.may_answer.set()

    async def fail() -> int:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await flights.ask("a", fail)
    assert await flights.ask("a", source.find) == 1


async def test_only_so_many_answers_are_kept() -> None:
    source, flights = Source(), SingleFlight[int](lifetime=60.0)
    source.may_answer.set()

    for number in range(MAX_KEPT + 1):
        await flights.ask(number, source.find)

    assert len(flights._flights) == MAX_KEPT
    assert await flights.ask(0, source.find) == MAX_KEPT + 2
