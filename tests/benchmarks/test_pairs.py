"""Comparing servers in pairs."""

import itertools
import random
import subprocess
import sys

import pytest

from benchmarks import pairs
from benchmarks.pairs import estimate_median, estimate_ratio, read_cpu, wait_idle


def test_the_interval_holds_the_true_median_in_nineteen_of_twenty_series() -> None:
    rng = random.Random(1)
    held = 0
    for _ in range(400):
        estimate = estimate_median([rng.lognormvariate(0, 0.5) for _ in range(25)])
        held += estimate.low <= 1 <= estimate.high

    assert 0.93 * 400 <= held < 400


def test_the_interval_of_few_values_is_their_range() -> None:
    assert estimate_median([3, 1, 2]) == (2, 1, 3)


def test_rounds_are_compared_with_the_one_beside_them() -> None:
    assert estimate_ratio([2, 20, 200], [1, 10, 100]) == (2, 2, 2)


def test_cpu_time_is_counted_until_the_processes_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter((1.0, 1.01, 1.02, 1.0201, 2.0))
    monkeypatch.setattr(pairs, "read_cpu", lambda pids: next(used))

    assert wait_idle([1]) == 1.0201


def test_processes_that_are_never_idle_are_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    used = itertools.count()
    monkeypatch.setattr(pairs, "read_cpu", lambda pids: next(used))

    assert wait_idle([1], timeout=0.05) >= 1


def test_the_cpu_time_of_processes_is_read() -> None:
    program = "for _ in range(1_000_000): pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        assert 0.01 < read_cpu([process.pid]) < 5
        process.communicate(b"\n")
