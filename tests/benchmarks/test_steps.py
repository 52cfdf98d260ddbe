"""The steps that the page on performance has a table of."""

import pytest

from benchmarks import steps


@pytest.mark.parametrize("count", steps.READS)
def test_every_step_of_a_messages_way_can_be_taken(count: int) -> None:
    for name, step in steps.steps(count):
        assert name
        step()
