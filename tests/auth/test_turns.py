"""Attempts that wait for their turn."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import pytest

from scalesocket.auth import turns as turns_module
from scalesocket.auth.denial import Denial
from scalesocket.auth.turns import MAX_OF_ADDRESS, POLL_INTERVAL, TIMEOUT, LocalDeciding, Turns
from scalesocket.config.model import Failures
from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.memory import SharedMemory
from tests.rooms.memory import run_virtual

PEER: Final = ("192.0.2.1", 1)
OTHER: Final = ("192.0.2.2", 1)
LIMITS: Final = Failures(limit=3, per="1h")

Task = asyncio.Task[Denial | None]


async def enter(turns: Turns, count: int, peer: tuple[str, int] | None = PEER) -> list[Task]:
    """Begin attempts; return when each has its turn, was refused, or waits."""
    tasks = [asyncio.create_task(turns.enter(peer, LIMITS)) for _ in range(count)]
    await settle()
    return tasks


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def fail(turns: Turns) -> None:
    turns.failures.add(PEER, LIMITS, time.monotonic())
    turns.leave(PEER, LIMITS)


def states(tasks: list[Task]) -> list[str]:
    """Return `waits`, `turn` or the reason of the denial for each."""
    return [state(task) for task in tasks]


def state(task: Task) -> str:
    if not task.done():
        return "waits"
    denial = task.result()
    return "turn" if denial is None else denial.reason


async def cancel(tasks: list[Task]) -> None:
    for task in tasks:
        task.cancel()
    await settle()


def test_as_many_are_decided_at_once_as_may_fail_and_the_others_follow_in_order() -> None:
    async def body() -> None:
        turns = Turns()
        tasks = await enter(turns, 5)
        assert states(tasks) == ["turn"] * 3 + ["waits"] * 2

        turns.leave(PEER, LIMITS)  # it has not failed
        await settle()

        assert states(tasks) == ["turn"] * 4 + ["waits"]
        assert states(await enter(turns, 1, OTHER)) == ["turn"]
        assert states(await enter(turns, 9, None)) == ["turn"] * 9  # a unix socket has no address
        await cancel(tasks)

    run_virtual(body)


def test_those_that_wait_are_refused_once_too_many_have_failed() -> None:
    async def body() -> None:
        turns = Turns()
        tasks = await enter(turns, 9)
        fail(turns)
        fail(turns)
        await settle()
        assert states(tasks) == ["turn"] * 3 + ["waits"] * 6

        fail(turns)
        await settle()

        assert states(tasks) == ["turn"] * 3 + ["too_many_failures"] * 6
        assert states(await enter(turns, 1)) == ["too_many_failures"]

    run_virtual(body)


def test_a_wait_is_bounded_in_number_and_time() -> None:
    async def body() -> None:
        turns = Turns()
        tasks = await enter(turns, LIMITS.limit + MAX_OF_ADDRESS + 2)
        assert states(tasks) == ["turn"] * LIMITS.limit + ["waits"] * MAX_OF_ADDRESS + ["unavailable"] * 2

        await asyncio.sleep(TIMEOUT + 0.1)

        assert states(tasks[LIMITS.limit :]) == ["unavailable"] * (MAX_OF_ADDRESS + 2)
        for _ in range(LIMITS.limit):
            turns.leave(PEER, LIMITS)
        assert states(await enter(turns, 1)) == ["turn"]

    run_virtual(body)


def test_all_addresses_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "MAX_WAITING", 4)

    async def body() -> None:
        turns = Turns()
        first, second = await enter(turns, 6), await enter(turns, 6, OTHER)
        assert states(first) == ["turn"] * 3 + ["waits"] * 3
        assert states(second) == ["turn"] * 3 + ["waits"] + ["unavailable"] * 2
        await cancel([task for task in (*first, *second) if not task.done()])

    run_virtual(body)


def test_a_client_that_leaves_gives_its_turn_to_the_next_one() -> None:
    async def body() -> None:
        deciding = LocalDeciding()
        turns = Turns(deciding=deciding)
        tasks = await enter(turns, 6)
        await cancel(tasks[3:4])
        turns.leave(PEER, LIMITS)
        tasks[4].cancel()  # in the iteration of the event loop in which it has its turn
        await settle()

        assert tasks[3].cancelled()
        assert tasks[4].cancelled()
        assert state(tasks[5]) == "turn"
        for _ in range(3):
            turns.leave(PEER, LIMITS)
        assert (len(deciding), len(turns._queues), turns._waiting) == (0, 0, 0)

    run_virtual(body)


# --- In several workers


@pytest.fixture
def shared() -> Iterator[list[SharedCapacity]]:
    """What three workers count together."""
    memory = SharedMemory.create(3)
    opened = [SharedMemory.open(memory.fd) for _ in range(3)]
    yield [SharedCapacity(each, worker) for worker, each in enumerate(opened)]
    for each in (*opened, memory):
        each.close()


def turns_of(shared: list[SharedCapacity]) -> list[Turns]:
    return [Turns(capacity.failed("chat"), capacity.deciding("chat")) for capacity in shared]


def test_attempts_that_wait_for_those_of_other_workers_follow_soon(shared: list[SharedCapacity]) -> None:
    async def body() -> None:
        first, second, third = turns_of(shared)
        tasks = [*await enter(first, 2), *await enter(second, 2)]
        assert states(tasks) == ["turn"] * 3 + ["waits"]
        late = await enter(third, 1)
        assert states(late) == ["waits"]

        first.leave(PEER, LIMITS)
        await asyncio.sleep(2 * POLL_INTERVAL)

        assert sorted(states([tasks[3], *late])) == ["turn", "waits"]
        fail(first)
        second.failures.add(PEER, LIMITS, time.monotonic())
        second.failures.add(PEER, LIMITS, time.monotonic())
        await asyncio.sleep(2 * POLL_INTERVAL)
        assert sorted(states([tasks[3], *late])) == ["too_many_failures", "turn"]
        assert states(await enter(third, 1, OTHER)) == ["turn"]

    run_virtual(body)


def test_nobody_looks_for_other_workers_when_none_waits(shared: list[SharedCapacity]) -> None:
    async def body() -> None:
        first = turns_of(shared)[0]
        tasks = await enter(first, 4)
        assert first._poll is not None

        await cancel(tasks[3:])
        await asyncio.sleep(2 * POLL_INTERVAL)

        assert first._poll is None

    run_virtual(body)
