"""The attacks fail."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.attacks import framing, rebinding, reconnecting, spoofing
from tests.attacks.tries import Attack

pytestmark = pytest.mark.anyio

ATTACKS: Final[Mapping[str, Attack]] = {
    "framing": framing.attack,
    "rebinding": rebinding.attack,
    "reconnecting": reconnecting.attack,
    "spoofing": spoofing.attack,
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One event loop: nothing here depends on it."""
    return "asyncio", {"use_uvloop": True}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_an_attack_fails(attack: Attack) -> None:
    tries = await attack()

    assert [one for one in tries if one.answered != one.expected] == []
