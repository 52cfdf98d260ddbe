"""Claims that are given up, without an engine: never while a backend of the room still runs."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from scalesocket.cluster import claims as claims_module
from scalesocket.cluster.claims import FENCE, Claims
from scalesocket.cluster.directory import Directory
from scalesocket.cluster.lease import Lease
from scalesocket.cluster.records import RoomName, Won
from scalesocket.placement.placement import HERE
from scalesocket.rooms.room import Room
from scalesocket.status import PoolView

pytestmark = pytest.mark.anyio
DEN = RoomName("chat", "den")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeDirectory:
    """Every claim is won, with the next fence."""

    def __init__(self) -> None:
        self.fence = 0
        self.released: list[int] = []

    async def claim(self, app: str, room: str) -> Won:
        self.fence += 1
        return Won(self.fence)

    def fence_of(self, app: str, room: str) -> int:
        return self.fence

    def release(self, app: str, room: str, fence: int) -> None:
        self.released.append(fence)


class FakeRoom:
    def __init__(self) -> None:
        self.name = DEN.room
        self.app = SimpleNamespace(name=DEN.app)


def make(monkeypatch: pytest.MonkeyPatch, unopened: float = 0.02) -> tuple[Claims, FakeDirectory]:
    monkeypatch.setattr(claims_module, "UNOPENED", unopened)
    directory = FakeDirectory()
    claims = Claims(cast(Directory, directory), cast(Lease, SimpleNamespace(is_valid=True)))
    claims.pools = {DEN.app: cast(PoolView, SimpleNamespace(rooms={}))}
    return claims, directory


async def test_a_room_that_nobody_opens_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, directory = make(monkeypatch)

    assert await claims.claim(DEN) is HERE
    assert claims.may_open(*DEN)
    await asyncio.sleep(0.05)

    assert directory.released == [1]
    assert not claims.may_open(*DEN)


async def test_a_room_is_given_up_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, directory = make(monkeypatch)
    room = cast(Room, FakeRoom())
    await claims.claim(DEN)

    assert claims.begin(room) == {FENCE: "1"}
    await asyncio.sleep(0.05)
    assert directory.released == []
    claims.end(room)

    assert directory.released == [1]


@pytest.mark.parametrize("how", ["nobody opens it", "the node is drained"])
async def test_the_claim_of_a_successor_is_kept_until_the_room_before_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    claims, directory = make(monkeypatch)
    ending = cast(Room, FakeRoom())
    await claims.claim(DEN)
    claims.begin(ending)

    await claims.claim(DEN)
    if how == "the node is drained":
        claims.give_up_all()
    await asyncio.sleep(0.05)

    assert directory.released == []
    claims.end(ending)
    assert directory.released == [2]


async def test_a_node_that_is_drained_gives_up_what_is_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, directory = make(monkeypatch, unopened=60)
    await claims.claim(DEN)

    claims.give_up_all()

    assert directory.released == [1]
