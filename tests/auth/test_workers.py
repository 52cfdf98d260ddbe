"""Authentication in several workers: what they share, and what is divided among them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

import bcrypt
import pytest

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.authenticators import Authenticators
from scalesocket.auth.denial import Denial
from scalesocket.auth.jwt import JwtVerifier
from scalesocket.auth.turns import Turns
from scalesocket.auth.users import MAX_WAITING, PARALLEL, PasswordHasher
from scalesocket.config.model import Failures
from scalesocket.shared_memory.capacity import SharedCapacity
from scalesocket.shared_memory.memory import SharedMemory
from tests.auth.deciding import PEER, Door, request_of
from tests.auth.tokens import AUTH, bearer, token
from tests.auth.web import open_web
from tests.playing import until

LIMITS: Final = Failures(limit=3, per="1h")
RIGHT: Final = bearer(token(ttl=3600))  # longer than the whole suite runs
WRONG: Final = bearer(token(ttl=3600, secret="w" * 32))


@pytest.fixture
def shared() -> Iterator[list[SharedCapacity]]:
    """What two workers count together."""
    memory = SharedMemory.create(2)
    opened = [SharedMemory.open(memory.fd) for _ in range(2)]
    yield [SharedCapacity(each, worker) for worker, each in enumerate(opened)]
    for each in (*opened, memory):
        each.close()


def door_of(capacity: SharedCapacity) -> Door:
    door = Door(**AUTH, failures={"limit": LIMITS.limit, "per": "1h"})
    door.authenticators = Authenticators(
        door.site, make_turns=lambda app: Turns(capacity.failed(app), capacity.deciding(app)), workers=capacity.workers
    )
    return door


def test_failures_in_one_worker_keep_the_address_out_of_the_other(shared: list[SharedCapacity]) -> None:
    first, second = map(door_of, shared)

    assert [door.denies(WRONG) for door in (first, second, first)] == ["bad_credential"] * 3

    assert second.denies(RIGHT) == "too_many_failures"
    assert first.admits(RIGHT, peer=("192.0.2.9", 1)).user == "ann"


@pytest.mark.parametrize("headers", [RIGHT, WRONG], ids=["right", "wrong"])
def test_a_verdict_counts_for_nothing_if_too_many_fail_elsewhere_meanwhile(
    shared: list[SharedCapacity], monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    door, elsewhere = door_of(shared[0]), shared[1].failed("game")
    verify: Callable[[JwtVerifier, Attempt], Verdict | None] = JwtVerifier.verify

    def verify_late(self: JwtVerifier, attempt: Attempt) -> Verdict | None:
        for _ in range(LIMITS.limit):
            elsewhere.add(PEER, LIMITS, time.monotonic())
        return verify(self, attempt)

    monkeypatch.setattr(JwtVerifier, "verify", verify_late)

    assert door.denies(headers) == "too_many_failures"


@pytest.mark.parametrize(("workers", "share"), [(1, 6), (2, 3), (4, 1), (100, 1)])
async def test_each_worker_asks_its_share_of_max_in_flight(workers: int, share: int) -> None:
    async with open_web(lambda _: None) as web:
        door = Door(hook={"url": web.url, "timeout": 30.0, "max_in_flight": 6})
        resources = Authenticators(door.site, workers=workers).resources
        hook = resources.find_hook("game")
        assert hook is not None

        questions = [hook.question(request_of("/game/one", {"Cookie": f"a={number}"}), "one") for number in range(8)]
        asking = [asyncio.create_task(hook.ask(question)) for question in questions]
        await web.wait_asked(share)
        await until(lambda: sum(task.done() for task in asking) == len(asking) - share)

        assert web.most_at_once == share
        assert hook.most_again == max(1, share // 2)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def test_each_worker_checks_its_share_of_passwords() -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4))
    hasher = PasswordHasher(2 * (PARALLEL + MAX_WAITING))
    try:
        verdicts = await asyncio.gather(*(hasher.verify("secret", hashed, 4) for _ in range(5)))
    finally:
        hasher.close()

    assert verdicts.count(True) == 2  # one in a thread, and one that waits
    assert sum(isinstance(verdict, Denial) for verdict in verdicts) == 3
