"""Whether a load balancer sends new clients to a node: as long as it renews its lease, or keeps its rooms without one."""

from typing import Any, cast

import pytest
from quart import Quart

from scalesocket.cluster.directory import Directory
from scalesocket.cluster.lease import LATE, USABLE, Lease, boottime
from scalesocket.cluster.records import Load
from scalesocket.node.lobby import ClusterOverview
from scalesocket.overview import LocalOverview, Readiness
from scalesocket.server.http.health import health_blueprint

pytestmark = pytest.mark.anyio
SECONDS = 10.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Own:
    """This node without the cluster."""

    def __init__(self, *, is_draining: bool = False) -> None:
        self.readiness = Readiness(is_draining=is_draining, generation=3, public_error=None)

    async def find_readiness(self) -> Readiness:
        return self.readiness


async def probe(*, age: float | None, keeps_rooms: bool = False, is_draining: bool = False) -> tuple[int, dict[str, Any]]:
    """Ask `/ready`. `age`: seconds since the last renewal that was answered; None before the first."""

    async def end() -> None:
        raise AssertionError

    directory = cast(Directory, None)
    lease = Lease(directory, SECONDS, load=Load, on_deadline=print, on_lost=end, keeps_rooms=keeps_rooms)
    if age is not None:
        lease._deadline = boottime() - age + USABLE * SECONDS
        lease._is_open = True
    overview = ClusterOverview(cast(LocalOverview, Own(is_draining=is_draining)), directory, lease)
    app = Quart("test")
    app.register_blueprint(health_blueprint(overview))
    answer = await app.test_client().get("/ready")
    return answer.status_code, await answer.get_json()


async def test_a_node_is_ready_while_half_of_its_lease_is_left() -> None:
    expected = {"status": "ready", "draining": False, "generation": 3, "last_error": None, "engine": "up"}
    for age in (0.0, (USABLE - LATE) * SECONDS - 0.5):
        assert await probe(age=age) == (200, expected)


@pytest.mark.parametrize("age", [None, (USABLE - LATE) * SECONDS + 0.1, USABLE * SECONDS + 1.0])
async def test_a_node_without_renewals_is_not_ready_and_says_why(age: float | None) -> None:
    status, body = await probe(age=age)

    assert (status, body["status"], body["engine"]) == (503, "no_engine", "down")


async def test_a_node_that_keeps_its_rooms_is_ready_without_the_engine_and_says_that_it_is_away() -> None:
    status, body = await probe(age=SECONDS, keeps_rooms=True)

    assert (status, body["status"], body["engine"]) == (200, "ready", "down")


async def test_a_node_that_drains_says_so_whatever_the_engine_does() -> None:
    status, body = await probe(age=SECONDS, is_draining=True)

    assert (status, body["status"]) == (503, "draining")
