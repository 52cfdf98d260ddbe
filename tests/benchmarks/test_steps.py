"""The steps of a message, which docs/performance.md has a table of."""

import pytest

from benchmarks import steps


@pytest.mark.parametrize("count", steps.READS)
def test_every_step_runs(count: int) -> None:
    for name, step in steps.steps(count):
        assert name
        step()
