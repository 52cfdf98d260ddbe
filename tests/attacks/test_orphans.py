"""No program outlives a server and a spawner that are killed together."""

import pytest

from tests.attacks.orphans import ORDERS, attack


@pytest.mark.parametrize("order", ORDERS)
def test_no_program_outlives_a_server_killed_together_with_its_spawner(order: str) -> None:
    figures = attack(order, runs=1)

    assert figures.programs >= 40
    assert figures.left == 0
