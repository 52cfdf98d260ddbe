"""Processes that share memory: what they count together is exact."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.locks import LONGEST_RETRY, WAIT
from scalesocket.shared_memory.memory import SharedMemory
from tests.shared_memory.hammer import LIMIT, MANY, PORTS, ROUNDS

ROOT: Final = Path(__file__).parents[2]
WORKERS: Final = 4
DEADLINE: Final = 30.0


class Hammer:
    """A process of `hammer.py`."""

    def __init__(self, memory: SharedMemory, worker: int, scene: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.shared_memory.hammer", str(memory.fd), str(worker), scene],
            cwd=ROOT,
            pass_fds=[memory.fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the process has failed"
        return line

    def go(self) -> None:
        """Let it start, or end."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        return json.loads(self.read())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create(WORKERS)
    yield memory
    memory.close()


@contextmanager
def hammering(memory: SharedMemory, scene: str, workers: int = WORKERS) -> Iterator[list[Hammer]]:
    """Start processes, wait until they are ready, and let them start at the same time."""
    with ExitStack() as stack:
        hammers = []
        for worker in range(workers):
            hammers.append(Hammer(memory, worker, scene))
            stack.callback(hammers[-1].kill)
        assert {hammer.read() for hammer in hammers} == {"ready"}
        for hammer in hammers:
            hammer.go()
        yield hammers


def most_at_once(spans: list[tuple[int, int]]) -> int:
    """Return the greatest number of spans that overlap."""
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("scene", ["places", "addresses"])
def test_a_limit_is_reached_and_never_exceeded(memory: SharedMemory, scene: str) -> None:
    with hammering(memory, scene) as hammers:
        results = [hammer.result() for hammer in hammers]

    for what in results[0]:
        spans = [tuple(span) for result in results for span in result[what]["spans"]]
        assert len(spans) > 10 * LIMIT
        assert most_at_once(spans) <= LIMIT, what
        assert sum(result[what]["filled"] for result in results) == LIMIT, what


def test_rates_and_failures_allow_as_many_as_in_one_process(memory: SharedMemory) -> None:
    with hammering(memory, "rates") as hammers:
        results = [hammer.result() for hammer in hammers]

    allowed = {what: sum(result[what] for result in results) for what in results[0]}
    assert (allowed["upgrades"], allowed["rooms"]) == (MANY, MANY)
    assert 0.6 * MANY < allowed["failures"] <= MANY  # one that had no lock in time was counted, and not allowed


def test_no_more_attempts_are_decided_than_may_fail(memory: SharedMemory) -> None:
    with hammering(memory, "turns") as hammers:
        assert sum(hammer.result() for hammer in hammers) == LIMIT


def test_ids_and_ports_are_given_to_one_only(memory: SharedMemory) -> None:
    with hammering(memory, "unique") as hammers:
        results = [hammer.result() for hammer in hammers]

    ids = [number for result in results for number in result["ids"]]
    assert len(set(ids)) == WORKERS * ROUNDS
    assert min(ids) == 1
    ports = [port for result in results for port in result["ports"]]
    assert sorted(ports) == list(range(PORTS[0], PORTS[1] + 1))


def test_what_a_killed_worker_has_counted_is_free_again_once_it_is_cleared(memory: SharedMemory) -> None:
    with hammering(memory, "places") as hammers:
        victim = hammers.pop()
        time.sleep(random.uniform(0.1, 0.5))
        victim.kill()
        results = [hammer.result() for hammer in hammers]
    own = SharedMemory.open(memory.fd)
    watcher = SharedCapacity(own, 0)
    left = {"server": watcher.connections.taken, "app": watcher.open_app("chat").connections.taken}
    assert all(LIMIT >= left[what] >= sum(result[what]["filled"] for result in results) for what in left)

    for worker in range(WORKERS):
        memory.clear_worker(worker)

    assert watcher.connections.taken == watcher.open_app("chat").connections.taken == 0
    first = next(SharedCapacity(own, WORKERS - 1).client_ids)
    assert first not in {next(SharedCapacity(own, worker).client_ids) for worker in range(WORKERS)}
    own.close()


@pytest.fixture
def holder(memory: SharedMemory) -> Iterator[Hammer]:
    """A process that holds the lock of the server's connections."""
    hammer = Hammer(memory, 1, "lock")
    assert hammer.read() == "locked"
    yield hammer
    hammer.kill()


def test_a_lock_is_released_when_its_holder_is_killed(memory: SharedMemory, holder: Hammer) -> None:
    own = SharedMemory.open(memory.fd)
    connections = SharedCapacity(own, 0).connections
    assert not connections.take(1)

    holder.kill()
    time.sleep(LONGEST_RETRY)

    assert connections.take(1)
    assert not connections.take(1)
    own.close()


def test_a_stopped_holder_costs_others_milliseconds_and_no_place_too_many(memory: SharedMemory, holder: Hammer) -> None:
    os.kill(holder.process.pid, signal.SIGSTOP)
    own = SharedMemory.open(memory.fd)
    connections = SharedCapacity(own, 0).connections

    started_at, attempts, enough = time.monotonic(), 0, 10 * LONGEST_RETRY / WAIT
    while (taken := time.monotonic() - started_at) < LONGEST_RETRY or attempts <= enough:
        assert taken < 5 * LONGEST_RETRY, attempts  # few of them have waited
        assert not connections.take(WORKERS)  # near the limit: nobody knows who else takes a place
        attempts += 1

    assert connections.take(1000)  # far from it
    assert connections.taken == 1
    connections.release()
    own.close()
