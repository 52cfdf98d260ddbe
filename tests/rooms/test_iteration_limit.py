"""Work of many tasks, spread over several event-loop iterations."""

import asyncio

import pytest

from scalesocket.rooms.iteration_limit import IterationLimit

pytestmark = pytest.mark.anyio


class Iterations:
    """Counts the iterations of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._count()

    def _count(self) -> None:
        self.number += 1
        self._loop.call_soon(self._count)


@pytest.mark.timeout(10)
async def test_a_bounded_number_of_tasks_pass_in_each_iteration_in_order() -> None:
    limit, iterations = IterationLimit(3), Iterations()
    through: list[tuple[int, int]] = []

    async def go(number: int) -> None:
        await limit.wait()
        through.append((iterations.number, number))

    await asyncio.gather(*map(go, range(10)))

    assert [number for _, number in through] == list(range(10))
    passed_in = [number for number, _ in through]
    assert max(passed_in.count(one) for one in passed_in) == 3
    assert len(set(passed_in)) == 4


@pytest.mark.timeout(10)
async def test_a_single_task_does_not_wait() -> None:
    limit, iterations = IterationLimit(1), Iterations()

    for _ in range(3):
        before = iterations.number
        await limit.wait()
        assert iterations.number == before
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.mark.timeout(10)
async def test_a_cancelled_task_takes_no_place() -> None:
    limit = IterationLimit(1)
    tasks = [asyncio.create_task(limit.wait()) for _ in range(4)]
    await asyncio.sleep(0)

    tasks[1].cancel()
    await asyncio.gather(tasks[0], *tasks[2:])

    assert tasks[1].cancelled()
