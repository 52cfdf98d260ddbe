"""Work of many tasks, spread over turns of the event loop."""

import asyncio

import pytest

from scalesocket.rooms.iteration_limit import IterationLimit

pytestmark = pytest.mark.anyio


class Turns:
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._count()

    def _count(self) -> None:
        self.number += 1
        self._loop.call_soon(self._count)


@pytest.mark.timeout(10)
async def test_so_many_go_through_in_a_turn_and_in_the_order_they_came() -> None:
    limit, turns = IterationLimit(3), Turns()
    through: list[tuple[int, int]] = []

    async def go(number: int) -> None:
        await limit.wait()
        through.append((turns.number, number))

    await asyncio.gather(*map(go, range(10)))

    assert [number for _, number in through] == list(range(10))
    in_turn = [turn for turn, _ in through]
    assert max(in_turn.count(turn) for turn in in_turn) == 3
    assert len(set(in_turn)) == 4


@pytest.mark.timeout(10)
async def test_who_comes_alone_does_not_wait() -> None:
    limit, turns = IterationLimit(1), Turns()

    for _ in range(3):
        before = turns.number
        await limit.wait()
        assert turns.number == before
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.mark.timeout(10)
async def test_who_is_cancelled_takes_nobodys_turn() -> None:
    limit = IterationLimit(1)
    tasks = [asyncio.create_task(limit.wait()) for _ in range(4)]
    await asyncio.sleep(0)

    tasks[1].cancel()
    await asyncio.gather(tasks[0], *tasks[2:])

    assert tasks[1].cancelled()
