"""The placement of a node without a directory: which answer its clients wait for, and for how long."""

import asyncio
from collections.abc import Awaitable
from typing import cast

import pytest

from scalesocket.cluster import known_owners
from scalesocket.cluster.claims import Claims
from scalesocket.cluster.known_owners import KnownOwners
from scalesocket.cluster.peer_client import PeerClient
from scalesocket.cluster.placement import MAX_ASKING, NO_OWNER, ClusterPlacement, Search
from scalesocket.cluster.records import RoomName
from scalesocket.cluster.remote import Claim, RemoteNode
from scalesocket.placement.placement import HERE, Here, Place

pytestmark = pytest.mark.anyio
DEN = RoomName("chat", "den")
A, B = Claim("a:9100", 1), Claim("b:9100", 2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class KnownClaims:
    """Claims that only say which rooms are open here."""

    def __init__(self) -> None:
        self.here: set[RoomName] = set()

    def has(self, name: RoomName) -> bool:
        return name in self.here

    def is_open(self, app: str, room: str) -> bool:
        return (app, room) in self.here


class Asked:
    """Answers from a list, the last of which is repeated."""

    def __init__(self, *answers: Here | Claim | None) -> None:
        self.answers = list(answers)
        self.count = 0

    async def __call__(self, name: RoomName) -> Here | Claim | None:
        self.count += 1
        await asyncio.sleep(0)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def placement_of(asked: Asked, claims: KnownClaims | None = None, *, hold: float = 0.2) -> ClusterPlacement:
    placement = ClusterPlacement(cast(Claims, claims or KnownClaims()), asked, pause=0.01, hold=hold)
    placement.client = cast(PeerClient, object())
    return placement


async def locate(placement: ClusterPlacement) -> Place:
    return await cast(Awaitable[Place], placement.locate(*DEN))


async def test_a_room_that_is_open_here_is_located_without_a_question() -> None:
    claims, asked = KnownClaims(), Asked(A)
    claims.here.add(DEN)

    assert placement_of(asked, claims).locate(*DEN) is HERE
    assert asked.count == 0


async def test_the_owner_is_another_node_or_this_one() -> None:
    assert await locate(placement_of(Asked(HERE))) is HERE
    assert isinstance(await locate(placement_of(Asked(A))), RemoteNode)


async def test_clients_wait_until_the_room_has_an_owner() -> None:
    placement = placement_of(Asked(None, None, None, HERE), hold=5)

    assert await locate(placement) is HERE


async def test_a_client_that_waits_too_long_gets_no_owner_and_the_search_ends() -> None:
    asked = Asked(None)
    placement = placement_of(asked, hold=0.05)

    assert await locate(placement) is NO_OWNER
    assert placement.held == 0
    await asyncio.sleep(0.05)
    count = asked.count
    await asyncio.sleep(0.05)
    assert asked.count == count


async def test_all_clients_of_a_room_wait_for_one_search() -> None:
    asked = Asked(None, None, HERE)
    placement = placement_of(asked, hold=5)

    places = await asyncio.gather(*(locate(placement) for _ in range(500)))

    assert set(places) == {HERE}
    assert asked.count == 3


async def test_rooms_without_an_owner_are_asked_about_in_turns_and_keep_no_other_room_waiting() -> None:
    asking = most = 0

    async def ask(name: RoomName) -> Here | Claim | None:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.01)
        asking -= 1
        return HERE if name == DEN else None

    placement = ClusterPlacement(cast(Claims, KnownClaims()), ask, pause=30, hold=60)
    rooms = [asyncio.ensure_future(cast(Awaitable[Place], placement.locate("chat", f"{number}"))) for number in range(600)]
    while asking < MAX_ASKING:  # noqa: ASYNC110 there is no event of it
        await asyncio.sleep(0)

    async with asyncio.timeout(5):
        assert await locate(placement) is HERE
    assert most == MAX_ASKING
    await placement.close()
    assert set(await asyncio.gather(*rooms)) == {NO_OWNER}


async def test_a_client_that_leaves_does_not_end_the_search_of_others() -> None:
    placement = placement_of(Asked(None, None, None, HERE), hold=5)
    leaves, stays = (asyncio.create_task(locate(placement)) for _ in range(2))
    await asyncio.sleep(0.005)

    leaves.cancel()

    assert await stays is HERE


async def test_the_next_owner_is_not_the_one_that_did_not_take_the_client() -> None:
    search = Search(placement_of(Asked(A, A, A, B)), DEN, asyncio.get_running_loop().time() + 5)

    assert await search.next() == A
    assert await search.next() == B


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_owner_is_known_for_a_moment_after_each_client_that_it_took() -> None:
    clock = Clock()
    owners = KnownOwners(3, clock)
    assert owners.find(DEN) is None
    owners.note(DEN, A, True)
    clock.now += 2
    owners.note(DEN, A, True)
    clock.now += 2
    assert owners.find(DEN) == A

    clock.now += 1

    assert owners.find(DEN) is None


def test_an_owner_that_refuses_a_client_is_forgotten_unless_another_is_known_by_now() -> None:
    owners = KnownOwners(3, Clock())
    owners.note(DEN, A, True)
    owners.note(DEN, A, False)
    assert owners.find(DEN) is None

    owners.note(DEN, B, True)
    owners.note(DEN, A, False)

    assert owners.find(DEN) == B


def test_few_owners_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_owners, "MAX_KNOWN", 3)
    owners = KnownOwners(3, Clock())
    names = [RoomName("chat", str(number)) for number in range(5)]

    for name in names:
        owners.note(name, A, True)

    assert [owners.find(name) for name in names] == [None, None, A, A, A]


async def test_the_owner_that_has_just_taken_a_client_is_asked_without_a_question_to_the_directory() -> None:
    asked = Asked(A, B)
    placement = ClusterPlacement(cast(Claims, KnownClaims()), asked, pause=0.01, hold=5, known_for=5)
    placement.client = cast(PeerClient, object())
    first = await locate(placement)
    assert isinstance(first, RemoteNode)
    assert first._note is not None
    first._note(A, True)

    second = placement.locate(*DEN)

    assert isinstance(second, RemoteNode)
    assert second._claim == A
    assert await second._locate_again() == B


async def test_waiting_clients_are_refused_when_the_node_stops() -> None:
    placement = placement_of(Asked(None), hold=20)
    waiting = asyncio.create_task(locate(placement))
    await asyncio.sleep(0.005)
    assert placement.held == 1

    await placement.close()

    async with asyncio.timeout(1):
        assert await waiting is NO_OWNER
