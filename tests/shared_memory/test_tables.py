"""Three workers in one process, each with the memory opened for itself."""

import os
from collections.abc import Iterator
from typing import Final

import pytest

from scalesocket.capacity.local import LocalAppCapacity
from scalesocket.config.model import ConnectRate, Failures, RoomRate
from scalesocket.shared_memory import address_counts, capacity, locks, pairs
from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.layout import MAX_APPS, SET
from scalesocket.shared_memory.locks import Locks
from scalesocket.shared_memory.memory import SharedMemory, SharedMemoryError

ANN: Final = ("192.0.2.1", 1)
BOB: Final = ("192.0.2.2", 1)
MAX_RESIDENT: Final = 1024 * 1024


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create(3)
    yield memory
    memory.close()


@pytest.fixture
def workers(memory: SharedMemory) -> Iterator[list[SharedCapacity]]:
    opened = [SharedMemory.open(memory.fd) for _ in range(3)]
    yield [SharedCapacity(each, worker) for worker, each in enumerate(opened)]
    for each in opened:
        each.close()


def peer(number: int) -> tuple[str, int]:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1


# --- Places and apps


def test_places_are_one_sum(workers: list[SharedCapacity]) -> None:
    for worker in workers:
        assert worker.connections.take(3)

    assert [worker.connections.take(3) for worker in workers] == [False] * 3
    workers[0].connections.release()
    assert [worker.connections.take(3) for worker in workers] == [True, False, False]
    assert [worker.connections.taken for worker in workers] == [3] * 3
    assert workers[1].connections.take(None)


def test_an_app_has_the_same_places_in_all_workers_and_no_other_app_has_them(workers: list[SharedCapacity]) -> None:
    chats = [worker.open_app("chat") for worker in workers]
    mud = workers[0].open_app("mud")

    assert chats[0].rooms.take(2)
    assert chats[2].rooms.take(2)

    assert not chats[1].rooms.take(2)
    assert mud.rooms.take(1)
    assert chats[1].connections.take(1)
    assert (mud.connections.taken, workers[0].connections.taken) == (0, 0)


def test_slots_of_apps_are_used_again_once_no_worker_uses_them(workers: list[SharedCapacity]) -> None:
    first, second = workers[0], workers[1]
    kept = second.open_app("kept")
    assert kept.connections.take(1)
    for number in range(3 * MAX_APPS):
        app = first.open_app(f"app-{number}")
        assert not isinstance(app, LocalAppCapacity)
        assert app.connections.take(1)
        app.connections.release()
        app.close()

    assert first.open_app("kept").connections.taken == 1


def test_more_apps_than_there_are_slots_count_in_each_worker_alone(
    workers: list[SharedCapacity], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(capacity.log, "error", lambda event, **keys: errors.append(keys["app"]))
    for number in range(MAX_APPS):
        workers[0].open_app(f"app-{number}")

    late = [worker.open_app("late") for worker in workers[:2]]

    assert [app.connections.take(1) for app in late] == [True, True]
    assert errors == ["late", "late"]


def test_a_new_app_does_not_inherit_the_bucket_of_another(workers: list[SharedCapacity]) -> None:
    rate = RoomRate(total=0.001, burst=1)
    old = workers[0].open_app("old")
    assert old.openings.take(ANN, rate, 100.0)
    assert not workers[1].open_app("old").openings.take(BOB, rate, 100.0)
    old.close()
    for worker in workers[:2]:
        worker.open_app("old").close()
    workers[1].open_app("old").close()

    # All uses of "old" are given back but those of the second worker's first `open_app`: it keeps the slot.
    assert not workers[2].open_app("old").openings.take(BOB, rate, 100.0)
    assert workers[2].open_app("new").openings.take(BOB, rate, 100.0)


# --- Addresses


def test_websockets_of_an_address_are_one_sum(workers: list[SharedCapacity]) -> None:
    first, second, third = (worker.addresses for worker in workers)
    assert first.take(ANN, 3)
    assert first.take(ANN, 3)
    assert second.take(ANN, 3)

    assert not third.take(ANN, 3)
    assert third.is_full(ANN, 3)
    assert third.take(BOB, 3)
    assert third.take(None, 1)
    first.release(ANN)
    assert not third.is_full(ANN, 3)
    assert third.take(ANN, 3)


def test_websockets_from_before_a_limit_count_soon_after_it(workers: list[SharedCapacity]) -> None:
    first, second = (worker.addresses for worker in workers[:2])
    for _ in range(5):
        assert first.take(ANN, None)
    assert not second.is_full(ANN, 5)  # while there is no limit, nothing is entered

    first.sweep(5, None, 0.0)

    assert second.is_full(ANN, 5)
    assert not second.take(ANN, 5)
    for _ in range(5):
        first.release(ANN)
    assert second.take(ANN, 1)


def test_a_slot_goes_to_another_address_when_nobody_uses_it(
    workers: list[SharedCapacity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address_counts, "_SETS", 4)
    addresses = workers[0].addresses
    for number in range(20 * SET):
        assert addresses.take(peer(number), 1)
        addresses.release(peer(number))

    assert workers[1].addresses.take(ANN, 1)
    assert not addresses.take(ANN, 1)


def test_addresses_beyond_the_slots_are_counted_in_each_worker(
    workers: list[SharedCapacity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address_counts, "_SETS", 1)
    first, second = (worker.addresses for worker in workers[:2])
    for number in range(SET):
        assert first.take(peer(number), 1)

    assert [first.take(ANN, 1), first.take(ANN, 1)] == [True, False]
    assert [second.take(ANN, 1), second.take(ANN, 1)] == [True, False]
    assert not second.take(peer(0), 1)
    first.release(peer(0))
    second.sweep(1, None, 0.0)  # a slot is free: the second one enters it

    first.release(ANN)
    assert first.is_full(ANN, 1)
    assert not first.take(ANN, 1)


def test_tokens_are_taken_from_one_bucket(workers: list[SharedCapacity]) -> None:
    rate = ConnectRate(per_ip=2, burst=3)

    waits = [worker.addresses.take_token(ANN, rate, 100.0) for worker in (*workers, *workers)]

    assert waits == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    assert workers[0].addresses.take_token(BOB, rate, 100.0) == 0.0
    assert workers[1].addresses.take_token(ANN, rate, 100.5) == 0.0
    assert workers[2].addresses.take_token(ANN, rate, 100.5) == 0.5
    assert workers[2].addresses.take_token(None, rate, 100.5) == 0.0


def test_a_room_takes_both_tokens_or_none(workers: list[SharedCapacity]) -> None:
    rate = RoomRate(per_ip=0.01, total=2)  # bursts of 1 and 2
    first, second, third = (worker.open_app("chat").openings for worker in workers)

    assert [first.take(ANN, rate, 0.5), second.take(ANN, rate, 0.5)] == [True, False]
    assert [third.take(BOB, rate, 0.5), first.take(("192.0.2.3", 1), rate, 0.5)] == [True, False]
    assert second.take(("192.0.2.3", 1), rate, 1.0)  # its token was not taken before


def test_the_least_recent_address_makes_room_for_another(workers: list[SharedCapacity], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_SETS", 1)
    rate = ConnectRate(per_ip=0.001, burst=1)
    for number in range(SET + 1):
        assert workers[number % 3].addresses.take_token(peer(number), rate, 100.0 + number) == 0.0

    assert all(workers[0].addresses.take_token(peer(number), rate, 110.0) for number in range(1, SET + 1))
    assert workers[0].addresses.take_token(peer(0), rate, 110.0) == 0.0


def test_failures_are_one_count_which_fades(workers: list[SharedCapacity]) -> None:
    limits = Failures(limit=4, per="8s")
    first, second, third = (worker.failed("chat") for worker in workers)
    assert [first.add(ANN, limits, 100.0) for _ in range(2)] == [True, True]
    assert second.add(ANN, limits, 100.0)
    assert third.wait(ANN, limits, 100.0) == 0.0

    assert third.add(ANN, limits, 100.0)

    assert first.wait(ANN, limits, 100.0) == 2.0
    assert not second.add(ANN, limits, 100.0)  # it was decided at the same time as the last one
    assert first.wait(BOB, limits, 100.0) == 0.0
    assert workers[0].failed("mud").wait(ANN, limits, 100.0) == 0.0
    assert first.wait(ANN, limits, 104.5) == 0.0


# --- Locks and the memory itself


def test_without_a_lock_what_a_limit_forbids_is_refused_and_failures_are_counted_later(
    workers: list[SharedCapacity], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, rate = Failures(limit=2, per="1h"), ConnectRate(per_ip=100)
    worker, failed = workers[0], workers[0].failed("chat")
    with monkeypatch.context() as patched:
        patched.setattr(Locks, "acquire", lambda *_: False)
        assert not worker.connections.take(5)
        assert not worker.addresses.take(ANN, 5)
        assert worker.addresses.take_token(ANN, rate, 100.0) == 1.0
        assert not worker.ports.reserve(47_100)
        assert worker.deciding("chat").enter("192.0.2.1") is None
        failed.add(ANN, limits, 100.0)
        assert failed.wait(ANN, limits, 100.0) == 0.0

    assert failed.add(ANN, limits, 100.0)

    assert workers[1].failed("chat").wait(ANN, limits, 100.0) > 0.0


def test_nobody_waits_twice_for_a_lock_that_is_not_released(memory: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "FIRST_RETRY", 60.0)
    monkeypatch.setattr(locks, "LONGEST_RETRY", 60.0)
    first, second = SharedMemory.open(memory.fd), SharedMemory.open(memory.fd)
    holder, other = Locks(first.fd), Locks(second.fd)
    assert holder.acquire(5)
    assert other.acquire(6)
    assert not other.acquire(5)

    waits: list[None] = []
    monkeypatch.setattr(locks.os, "sched_yield", lambda: waits.append(None))
    assert not any(other.acquire(5) for _ in range(5))

    assert waits == []
    holder.release(5)
    assert other.acquire(5)
    first.close()
    second.close()


def test_memory_takes_only_what_is_used(memory: SharedMemory, workers: list[SharedCapacity]) -> None:
    for worker in workers:
        worker.connections.take(10)
        worker.addresses.take(ANN, 10)

    assert os.fstat(memory.fd).st_blocks * 512 < MAX_RESIDENT
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)


def test_a_cleared_worker_has_counted_nothing_and_its_successor_has_other_ids(
    memory: SharedMemory, workers: list[SharedCapacity]
) -> None:
    first, second = workers[:2]
    ids = {next(first.client_ids) for _ in range(1000)}
    for worker in (first, second):
        worker.connections.take(10)
        worker.addresses.take(ANN, 10)
    assert first.ports.reserve(47_200)
    assert not second.ports.reserve(47_200)

    memory.clear_worker(0)

    assert second.connections.taken == 1
    assert second.addresses.is_full(ANN, 1)
    assert not second.addresses.is_full(ANN, 2)
    assert second.ports.reserve(47_200)
    successor = SharedCapacity(SharedMemory.open(memory.fd), 0)
    assert ids.isdisjoint(next(successor.client_ids) for _ in range(1000))


def test_what_is_no_shared_memory_is_an_error() -> None:
    with pytest.raises(SharedMemoryError, match="cannot open the shared memory"):
        SharedMemory.open(1_000_000)
