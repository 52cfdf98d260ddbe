"""Users and passwords, and failed attempts."""

import asyncio
from pathlib import Path

import bcrypt
import pytest

from scalesocket.auth.denial import Denial
from scalesocket.auth.failures import MAX_BLOCKS, FailureTable
from scalesocket.auth.identity import Identity
from scalesocket.auth.sources import AuthFileError
from scalesocket.auth.users import MAX_WAITING, PARALLEL
from scalesocket.config.model import Failures
from tests.auth.deciding import Door, request_of
from tests.auth.test_credentials import basic
from tests.auth.tokens import SECRET, bearer, token

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
        ("ann:$apr1$abc$def", "line 1: the hash of 'ann' is not bcrypt (htpasswd -B FILE USER)"),
        (f"ann:{ANN}\nann:{ANN}", "line 2: the user 'ann' is in the file twice (delete one of the lines)"),
        (f"ann:{ANN.replace('$04$', '$31$')}", "line 1: the hash of 'ann' has a cost of 31 (use at most 15)"),
    ],
)
def test_a_wrong_users_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "users"
    file.write_text(text)

    with pytest.raises(AuthFileError) as error:
        Door(users_file=file)

    assert str(error.value) == f"apps.game.auth.users_file: {file}: {message}"


def test_many_passwords_wait_in_a_bounded_queue_and_the_event_loop_goes_on(users: Path) -> None:
    door = Door(users_file=users, failures={"limit": 10_000})

    async def scene() -> list[Identity | Denial]:
        requests = [request_of("/game/one", basic("ann", "secret")) for _ in range(PARALLEL + MAX_WAITING + 5)]
        checks = [door.authenticators["game"].check(request, "one", is_from_proxy=False).verdict for request in requests]
        return await asyncio.gather(*checks)  # type: ignore[arg-type]

    verdicts = asyncio.run(scene())

    assert sum(isinstance(verdict, Identity) for verdict in verdicts) == PARALLEL + MAX_WAITING
    assert {verdict.reason for verdict in verdicts if isinstance(verdict, Denial)} == {"unavailable"}


def test_attempts_that_wait_do_not_outrun_the_limit_of_failures(users: Path) -> None:
    door = Door(users_file=users, failures={"limit": 3})

    async def scene() -> list[Identity | Denial]:
        request = request_of("/game/one", basic("ann", "guess"))
        checks = [door.authenticators["game"].check(request, "one", is_from_proxy=False).verdict for _ in range(30)]
        return await asyncio.gather(*checks)  # type: ignore[arg-type]

    reasons = [verdict.reason for verdict in asyncio.run(scene()) if isinstance(verdict, Denial)]

    assert 3 <= reasons.count("bad_credential") < 3 + PARALLEL
    assert reasons.count("too_many_failures") == 30 - reasons.count("bad_credential")


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
