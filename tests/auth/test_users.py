"""Users and passwords, and failed attempts."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from scalesocket.auth import users as users_module
from scalesocket.auth.denial import Denial
from scalesocket.auth.failures import MAX_BLOCKS, FailureTable
from scalesocket.auth.identity import Identity
from scalesocket.auth.sources import AuthFileError
from scalesocket.auth.users import MAX_WAITING, PARALLEL
from scalesocket.config.model import Failures
from tests.auth.deciding import Door, request_of
from tests.auth.test_credentials import basic
from tests.auth.tokens import SECRET, bearer, token
from tests.auth.web import open_web, respond
from tests.playing import DEADLINE

ANN = bcrypt.hashpw(b"secret", b"$2b$04$abcdefghijklmnopqrstuu").decode()  # a fixed salt: test names contain the hash


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    file.write_text(f"# staff\nann:{ANN.replace('$2b$', '$2y$')}\n")  # as htpasswd writes it
    return file


def test_a_user_with_a_password_is_let_in(users: Path) -> None:
    door = Door(users_file=users)

    assert (door.admits(basic("ann", "secret")).user, door.admits(basic("ann", "secret")).method) == ("ann", "basic")
    for user, password in (("ann", "Secret"), ("ann", ""), ("bob", "secret"), ("", ""), ("ann", "\0"), ("ann", "x" * 5000)):
        assert door.denies(basic(user, password)) == "bad_credential"
    assert door.denies({"Authorization": "Basic !!!"}) == "bad_credential"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann", "line 1: is not USER:HASH (htpasswd -B FILE USER)"),
        ("ann:$apr1$abc$def", "line 1: what follows the name is not a bcrypt hash (htpasswd -B FILE USER)"),
        (f"ann:{ANN}\nann:{ANN}", "line 2: the user 'ann' is in the file twice (delete one of the lines)"),
        (f"ann:{ANN.replace('$04$', '$31$')}", "line 1: the hash of 'ann' has a cost of 31 (use at most 14)"),
    ],
)
def test_a_wrong_users_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "users"
    file.write_text(text)

    with pytest.raises(AuthFileError) as error:
        Door(users_file=file)

    assert str(error.value) == f"apps.game.auth.users_file: {file}: {message}"


def test_all_attempts_take_as_long_as_the_highest_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "users"
    expensive = bcrypt.hashpw(b"secret", bcrypt.gensalt(6)).decode()
    file.write_text(f"ann:{ANN}\nbob:{expensive}\n")
    door, check = Door(users_file=file), bcrypt.checkpw
    costs: list[int] = []

    def count(password: bytes, hashed: bytes) -> bool:
        costs.append(int(hashed[4:6]))
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", count)

    for user, password, is_right in (
        ("ann", "secret", True),  # at a low cost
        ("bob", "secret", True),
        ("ann", "guess", False),
        ("bob", "guess", False),
        ("eve", "guess", False),  # there is no such user
    ):
        costs.clear()
        assert isinstance(door.decide(basic(user, password)), Identity) is is_right
        assert sum(2**cost for cost in costs) == 2**6


def test_many_passwords_wait_in_a_bounded_queue_and_the_event_loop_goes_on(users: Path) -> None:
    door = Door(users_file=users, failures={"limit": 10_000})

    async def scene() -> list[Identity | Denial]:
        requests = [request_of("/game/one", basic("ann", "secret")) for _ in range(PARALLEL + MAX_WAITING + 5)]
        checks = [door.authenticators["game"].check(request, "one", is_from_proxy=False).verdict for request in requests]
        return await asyncio.gather(*checks)  # type: ignore[arg-type]

    verdicts = asyncio.run(scene())

    assert sum(isinstance(verdict, Identity) for verdict in verdicts) == PARALLEL + MAX_WAITING
    assert {verdict.reason for verdict in verdicts if isinstance(verdict, Denial)} == {"unavailable"}


def test_parallel_attempts_do_not_outrun_the_limit_of_failures(users: Path) -> None:
    door = Door(users_file=users, failures={"limit": 3})

    async def scene() -> list[Identity | Denial]:
        requests = [request_of("/game/one", basic("ann", "guess")) for _ in range(30)]
        checks = [door.authenticators["game"].check(request, "one", is_from_proxy=False).verdict for request in requests]
        return [check if isinstance(check, Identity | Denial) else await check for check in checks]

    reasons = [verdict.reason for verdict in asyncio.run(scene()) if isinstance(verdict, Denial)]

    assert (reasons.count("bad_credential"), reasons.count("too_many_failures")) == (3, 27)


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold each verification of a password until this is set."""
    event, check = threading.Event(), users_module._check

    def check_later(password: bytes, hashed: bytes, cost: int) -> bool:
        event.wait(DEADLINE)
        return check(password, hashed, cost)

    monkeypatch.setattr(users_module, "_check", check_later)
    yield event
    event.set()


async def abandon(door: Door, headers: dict[str, str]) -> Identity | Denial | None:
    """Begin an attempt and leave while it waits. Returns the decision if there was one at once."""
    verdict = door.authenticators["game"].check(request_of("/game/one", headers), "one", is_from_proxy=False).verdict
    if isinstance(verdict, Identity | Denial):
        return verdict
    waiting = asyncio.create_task(verdict)
    for _ in range(10):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    return None


def test_clients_that_leave_do_not_pile_up_threads(users: Path, release: threading.Event) -> None:
    door = Door(users_file=users, failures={"limit": 10_000})
    before = set(threading.enumerate())

    async def scene() -> Identity | Denial:
        for _ in range(PARALLEL + MAX_WAITING + 50):
            assert await abandon(door, basic("ann", "guess")) is None
        assert len(set(threading.enumerate()) - before) == PARALLEL
        release.set()
        async with asyncio.timeout(DEADLINE):
            return await door.check(basic("ann", "secret"))

    assert isinstance(asyncio.run(scene()), Identity)


def test_the_threads_end_with_the_site_which_does_not_wait_for_them(users: Path, release: threading.Event) -> None:
    door = Door(users_file=users)
    before = set(threading.enumerate())

    async def scene() -> set[threading.Thread]:
        await abandon(door, basic("ann", "secret"))
        started = set(threading.enumerate()) - before
        await door.check({})  # runs what the site shares until its end
        return started

    started = asyncio.run(scene())

    assert len(started) == 1
    assert all(thread.is_alive() for thread in started)
    release.set()
    for thread in started:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_attempts_of_clients_that_leave_count_as_failed(users: Path, release: threading.Event) -> None:
    door = Door(users_file=users, failures={"limit": 20, "per": "1h"})

    async def scene() -> list[Identity | Denial | None]:
        verdicts = [await abandon(door, basic("ann", "guess")) for _ in range(25)]
        release.set()
        assert isinstance(await door.check(basic("ann", "secret"), peer=("192.0.2.2", 1)), Identity)  # another address
        return verdicts

    verdicts = asyncio.run(scene())

    assert verdicts[:20] == [None] * 20
    assert [verdict.status for verdict in verdicts if isinstance(verdict, Denial)] == [429] * 5
    assert door.denies(basic("ann", "secret")) == "too_many_failures"


def test_questions_to_a_hook_count_as_failed_if_the_client_leaves() -> None:
    async def scene() -> list[Identity | Denial | None]:
        async with open_web(lambda _: None) as web:
            door = Door(hook={"url": web.url}, failures={"limit": 20, "per": "1h"})
            verdicts = [await abandon(door, basic("ann", "guess")) for _ in range(25)]
            await door.check({})
        return verdicts

    verdicts = asyncio.run(scene())

    assert verdicts[:20] == [None] * 20
    assert [verdict.status for verdict in verdicts if isinstance(verdict, Denial)] == [429] * 5


def test_attempts_that_do_not_fail_are_not_counted(users: Path) -> None:
    door = Door(users_file=users, failures={"limit": 2, "per": "1h"})
    for _ in range(5):
        assert door.admits(basic("ann", "secret")).user == "ann"

    async def ask_a_broken_hook() -> list[Identity | Denial]:
        async with open_web(lambda _: respond({}, status=500)) as web:
            asking = Door(hook={"url": web.url}, failures={"limit": 2, "per": "1h"})
            return [await asking.check(basic("ann", "secret")) for _ in range(5)]

    verdicts = asyncio.run(ask_a_broken_hook())
    assert [verdict.reason for verdict in verdicts if isinstance(verdict, Denial)] == ["unavailable"] * 5

    for _ in range(2):
        assert door.denies(basic("ann", "guess")) == "bad_credential"
    assert door.denies(basic("ann", "secret")) == "too_many_failures"


def test_after_too_many_failures_an_address_has_to_wait_whatever_it_shows() -> None:
    door = Door(jwt={"secret": SECRET}, failures={"limit": 2, "per": "1m"}, anonymous=True)
    for _ in range(2):
        assert door.denies(bearer("guess")) == "bad_credential"

    verdict = door.decide(bearer(token()))

    assert isinstance(verdict, Denial)
    assert (verdict.reason, verdict.status, verdict.close.code) == ("too_many_failures", 429, 1013)
    assert verdict.retry_after == 30
    assert door.admits({}).user is None  # guests at that address are not affected
    assert door.admits(bearer(token()), peer=("192.0.2.2", 1)).user == "ann"
    assert door.admits(bearer(token()), peer=None).user == "ann"


def test_failures_fade_evenly_and_ipv6_counts_by_its_network() -> None:
    table, limits = FailureTable(), Failures(limit=4, per="8s")
    for host in range(4):
        table.add((f"2001:db8::{host}", 1), limits, 100.0)

    assert table.wait(("2001:db8::ffff", 1), limits, 100.0) == 2.0
    assert table.wait(("2001:db8:0:1::", 1), limits, 100.0) == 0.0
    assert table.wait(("2001:db8::1", 1), limits, 101.0) == 1.0
    assert table.wait(("2001:db8::1", 1), limits, 102.0) == 0.0


def test_the_table_of_failures_is_bounded() -> None:
    table, limits = FailureTable(), Failures()
    for number in range(MAX_BLOCKS + 10):
        table.add((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1), limits, 100.0)
    assert len(table) == MAX_BLOCKS

    table.add(("192.0.2.1", 1), limits, 200.0)

    assert len(table) == 1
