"""The rooms of all nodes that pages and the API of one node show, without an engine."""

import asyncio
from typing import cast

import pytest

from scalesocket.cluster.directory import Directory
from scalesocket.cluster.lease import Lease
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.records import ClusterRoom, RoomName
from scalesocket.node.lobby import ClusterOverview
from scalesocket.overview import LocalOverview, RoomsSummary
from tests.rooms.acting import MemoryServe, in_memory


class FakeDirectory:
    """The directory of the node `a`, with its list of rooms."""

    node = "a"

    def __init__(self, *rooms: ClusterRoom) -> None:
        self.listing = self
        self.found = rooms
        self.is_up = True
        self.seconds = 0.0
        """Until the engine answers."""

    async def rooms(self, app: str) -> list[ClusterRoom]:
        await asyncio.sleep(self.seconds)
        if not self.is_up:
            raise EngineUnavailableError("no answer")
        return [room for room in self.found if room.name.app == app]


def room(node: str, name: str, players: int, state: str = "open") -> ClusterRoom:
    return ClusterRoom(
        name=RoomName("chat", name), node=node, fence=1, state=state, created=0.0, players=players, metadata=b'{"x": 1}'
    )


async def open_overview(serve: MemoryServe, directory: FakeDirectory) -> ClusterOverview:
    site = await serve(chat={"command": ["cat"]})
    await site.join("/chat/den")
    local = LocalOverview(site.gateway)
    overview = ClusterOverview(local, cast(Directory, directory), cast(Lease, None))
    overview._lists._lifetime = 0.0
    return overview


@in_memory
async def test_rooms_of_other_nodes_are_listed_and_found_by_name(serve: MemoryServe) -> None:
    others = (room("b", "pit", 4), room("c", "end", 2, state="stopping"), room("a", "old", 9), room("b", "den", 7))
    overview = await open_overview(serve, FakeDirectory(*others))

    listed = {found.name: found.connections for found in await overview.list_rooms("chat")}

    assert listed == {"den": 1, "pit": 4}
    found = await overview.find_room("chat", "pit")
    assert found is not None
    assert (found.connections, found.metadata) == (4, b'{"x": 1}')
    assert await overview.find_room("chat", "end") is None
    assert await overview.find_room("other", "pit") is None
    assert (await overview.find_room("chat", "den") or found).connections == 1


@in_memory
async def test_the_fullest_rooms_of_all_nodes_are_shown(serve: MemoryServe) -> None:
    overview = await open_overview(serve, FakeDirectory(room("b", "pit", 4), room("c", "bar", 4), room("c", "low", 0)))

    summary = await overview.summarize(["chat"], shown=3)

    assert summary == {"chat": RoomsSummary(number=4, clients=9, shown=(("bar", 4), ("pit", 4), ("den", 1)))}


@pytest.mark.parametrize("is_known", [True, False])
@in_memory
async def test_without_the_engine_the_last_list_is_shown(serve: MemoryServe, *, is_known: bool) -> None:
    directory = FakeDirectory(room("b", "pit", 4))
    overview = await open_overview(serve, directory)
    if is_known:
        await overview.list_rooms("chat")
    directory.is_up = False

    assert {found.name for found in await overview.list_rooms("chat")} == ({"den", "pit"} if is_known else {"den"})


@pytest.mark.parametrize(("answers_after", "seconds", "rooms"), [(1.5, 1.5, 2), (1000.0, 2.0, 1)])
@in_memory
async def test_a_page_with_many_apps_waits_for_the_engine_only_once(
    serve: MemoryServe, answers_after: float, seconds: float, rooms: int
) -> None:
    directory = FakeDirectory(room("b", "pit", 4))
    overview = await open_overview(serve, directory)
    directory.seconds = answers_after
    loop = asyncio.get_running_loop()
    started = loop.time()

    summary = await overview.summarize(["chat", *(f"app{number}" for number in range(20))], shown=3)

    assert loop.time() - started == pytest.approx(seconds)
    assert summary["chat"].number == rooms
