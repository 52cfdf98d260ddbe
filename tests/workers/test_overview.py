"""What a worker and the supervisor show of all workers."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import pytest
from quart import Quart

from scalesocket.config.model import App
from scalesocket.overview import Readiness, RoomsSummary, UnavailableError
from scalesocket.placement.placement import WorkerPlacement
from scalesocket.placement.rendezvous import Rendezvous
from scalesocket.server.http.app import create_base_app
from scalesocket.server.http.health import health_blueprint
from scalesocket.server.http.surface import Surface
from scalesocket.status import Counts, RoomStatus, SiteStatus
from scalesocket.workers.link import MAX_CALLS, Handlers
from scalesocket.workers.overview import MAX_SOUGHT, LinkedOverview, WorkerOverview, serve_overview
from scalesocket.workers.site_messages import FoundRoom, GetReadiness, GetRoom
from tests.server.general import make_site
from tests.workers.linking import open_pair
from tests.workers.test_merge import app_status, site_status

pytestmark = pytest.mark.anyio

READY: Final = Readiness(is_draining=False, generation=3, public_error="wrong")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


class Canned:
    """An overview with given answers, which notes what it is asked."""

    def __init__(self, *, is_draining: bool = False) -> None:
        self.asked: list[object] = []
        self.readiness = Readiness(is_draining=True, generation=1, public_error=None) if is_draining else READY

    async def status(self) -> SiteStatus:
        self.asked.append("status")
        return site_status(app_status(rooms=("a",), refusals={"origin": 2}), refusals={"host": 1})

    async def list_rooms(self, app: str) -> Sequence[RoomStatus]:
        self.asked.append(app)
        return [await self.find_room(app, "a")]

    async def find_room(self, app: str, room: str) -> RoomStatus:
        self.asked.append((app, room))
        return RoomStatus(
            name=room, state="open", pid=None, connections=2, metadata=b'{"a":1}', counts=Counts(connections_total=5)
        )

    async def summarize(self, apps: Sequence[str], shown: int) -> Mapping[str, RoomsSummary]:
        self.asked.append((*apps, shown))
        return {app: RoomsSummary(number=9, clients=shown, shown=(("a", 2),)) for app in apps}

    async def find_readiness(self) -> Readiness:
        self.asked.append("readiness")
        return self.readiness


async def test_all_answers_are_the_same_at_the_other_end_of_a_link() -> None:
    handlers, source = Handlers(), Canned()
    serve_overview(handlers, source)
    async with open_pair(Handlers(), handlers) as (near, _):
        linked = LinkedOverview(near, timeout=5)

        assert await linked.status() == await source.status()
        assert await linked.list_rooms("chat") == await source.list_rooms("chat")
        assert await linked.find_room("chat", "ä") == await source.find_room("chat", "ä")
        assert await linked.summarize(["chat", "b"], 12) == await source.summarize(["chat", "b"], 12)
        assert await linked.find_readiness() == READY
        near.close()
        with pytest.raises(UnavailableError, match="worker 1 has ended"):
            await linked.status()


async def test_a_probe_shows_that_workers_start() -> None:
    overview = Canned()
    overview.readiness = Readiness(is_draining=False, generation=1, public_error=None, is_starting=True)
    app = Quart("test")
    app.register_blueprint(health_blueprint(overview))

    answer = await app.test_client().get("/ready")

    assert (answer.status_code, (await answer.json)["status"]) == (503, "starting")


async def test_a_room_that_lives_here_is_asked_of_nobody_else() -> None:
    rendezvous = Rendezvous(2, b"k" * 32)
    rooms = {rendezvous.owner_of("chat", name): name for name in map(str, range(20))}
    local, others = Canned(), Canned()
    worker = WorkerOverview(local, others, WorkerPlacement(0, rendezvous, [None, None]))  # type: ignore[list-item]

    for _ in range(3):
        await worker.find_room("chat", rooms[0])
        await worker.find_room("chat", rooms[1])
        await worker.status()
        await worker.summarize(["chat"], 12)
        await worker.find_readiness()

    assert local.asked.count(("chat", rooms[0])) == 3
    assert sorted(map(str, others.asked)) == sorted(map(str, ["status", ("chat", rooms[1]), ("chat", 12), "readiness"]))


async def test_many_questions_for_rooms_leave_the_link_to_others() -> None:
    """As when the owner of the rooms is stopped, and clients ask for ever more of them."""
    handlers, source, answered = Handlers(), Canned(), asyncio.Event()

    async def find_late(_: GetRoom) -> FoundRoom:
        await answered.wait()
        return FoundRoom(None)

    handlers.add(GetRoom, find_late)
    handlers.add(GetReadiness, lambda _: source.find_readiness())
    async with open_pair(Handlers(), handlers) as (near, _):
        linked = LinkedOverview(near, timeout=5)
        asked = [asyncio.create_task(linked.find_room("chat", str(number))) for number in range(MAX_CALLS)]
        await asyncio.sleep(0)

        assert await linked.find_readiness() == READY
        with pytest.raises(UnavailableError, match="256 lookups of rooms wait for answers"):
            await linked.find_room("chat", "another")
        answered.set()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert results.count(None) == MAX_SOUGHT
        assert await linked.find_room("chat", "another") is None


async def test_a_worker_that_drains_alone_is_not_ready() -> None:
    placement = WorkerPlacement(0, Rendezvous(1, b"k" * 32), [None])  # type: ignore[list-item]

    assert (await WorkerOverview(Canned(is_draining=True), Canned(), placement).find_readiness()).is_draining
    assert (await WorkerOverview(Canned(), Canned(is_draining=True), placement).find_readiness()).is_draining
    assert await WorkerOverview(Canned(), Canned(), placement).find_readiness() == READY


async def test_pages_answer_503_while_the_supervisor_does_not_answer() -> None:
    class Site:
        site = make_site(App(name="chat", command=["cat"]), api=True)

    async with open_pair(Handlers(), Handlers()) as (near, _):
        app = create_base_app("test", Site(), LinkedOverview(near, timeout=5), Surface.PUBLIC, max_body=0)
        near.close()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            for path in ("/api/apps/", "/metrics", "/ready", "/chat/api/rooms/", "/chat/api/one/"):
                answer = await http.get(path)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
                assert "not available" in answer.json()["error"]
            assert (await http.get("/health")).status_code == 200
