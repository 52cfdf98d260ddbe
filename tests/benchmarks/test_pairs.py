"""Comparing servers in pairs."""

import random
import subprocess
import sys

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


def test_cpu_time_is_counted_until_the_processes_are_idle() -> None:
    with subprocess.Popen([sys.executable, "-c", "for _ in range(1_000_000): pass\ninput()"], stdin=subprocess.PIPE) as process:
        used = wait_idle([process.pid])

        assert used > 0.01
        assert read_cpu([process.pid]) < used + 0.005
        process.communicate(b"\n")
