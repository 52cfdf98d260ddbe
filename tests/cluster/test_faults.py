"""What the contract of clusters promises, whatever fails: real nodes, a real engine, and clients in rooms of all nodes.

The lease is short, so that all of it fits into a minute; `make chaos` repeats the faults in any order for longer.
"""

import asyncio
import itertools
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.acts import find_overlaps, find_shared_fences
from tests.cluster.faults import FAULTS, Fault, run_fault
from tests.cluster.load import Joined, Load
from tests.cluster.namespaces import open_machines
from tests.cluster.running import NAME, RunningCluster, running_cluster, until

LEASE: Final = 1.0
_SERIAL: Final = itertools.count()


def make_rooms(count: int = 4) -> list[str]:
    """Names of rooms that no other test has."""
    serial = next(_SERIAL)
    return [f"t{serial}-{number}" for number in range(count)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Three nodes that all tests of this module break and mend."""
    with asyncio.Runner() as runner:
        context = running_cluster(tmp_path_factory.mktemp("cluster"), lease=LEASE)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def machines_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Three nodes on machines of their own."""
    with open_machines(3) as machines, asyncio.Runner() as runner:
        context = running_cluster(tmp_path_factory.mktemp("machines"), lease=LEASE, machines=machines)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


async def check_fault(cluster: RunningCluster, fault: Fault) -> None:
    async with Load(cluster, make_rooms()) as load:
        await load.wait_playing(within=30)

        await run_fault(cluster, load, fault)

        await load.end()
    assert not load.find_faults()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if not fault.needs_machines], ids=lambda fault: fault.name)
async def test_no_room_has_two_owners_and_no_message_is_lost_after(cluster: RunningCluster, fault: Fault) -> None:
    await check_fault(cluster, fault)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.needs_machines], ids=lambda fault: fault.name)
async def test_no_room_has_two_owners_and_no_message_is_lost_in_a_partition(
    machines_cluster: RunningCluster, fault: Fault
) -> None:
    await check_fault(machines_cluster, fault)


async def test_five_hundred_clients_that_join_a_new_room_on_all_nodes_meet_in_one_backend(cluster: RunningCluster) -> None:
    (room,) = make_rooms(1)
    async with AsyncExitStack() as stack:
        joins = [stack.enter_async_context(Joined(cluster.nodes[n % 3], room, app="alone")) for n in range(500)]
        connections = await asyncio.gather(*joins)
        async with asyncio.timeout(20):
            pids = {await connection.recv() for connection in connections}
        await connections[0].send("hello")
        async with asyncio.timeout(20):
            texts = {await connection.recv() for connection in connections}

    assert len(pids) == 1, pids
    assert texts == {"hello"}


async def test_a_rolling_restart_under_load_loses_no_message(cluster: RunningCluster) -> None:
    async with Load(cluster, make_rooms()) as load:
        await load.wait_playing(within=30)

        for node in cluster.nodes:
            node.send_signal(signal.SIGTERM)
            assert await node.wait_ended() == 0, node.read_log()
            await load.wait_playing(within=30)
            await cluster.start(node)
        await load.wait_playing(within=30)

        await load.end()
    assert not load.find_faults(is_orderly=True)
    assert set(load.closes) <= {1001, 1012, 1013, "ConnectionRefusedError", "InvalidMessage", "InvalidStatus"}, load.describe()


async def test_nothing_is_left_in_the_engine_after_the_last_room(cluster: RunningCluster) -> None:
    async with Load(cluster, make_rooms()) as load:
        await load.wait_playing(within=30)
        assert any(key.startswith("room:") for key in cluster.engine.keys(NAME))

        await load.end()

    expected = {"engine", "fence", "nodes", *(f"node:{node.name}" for node in cluster.nodes)}
    with suppress(AssertionError):
        await until(lambda: cluster.engine.keys(NAME) == expected, "only sessions and counters are left", within=30)
    assert cluster.engine.keys(NAME) == expected


@pytest.mark.parametrize(
    ("loss", "names"),
    [("stop", ["kill -9 of the gateway", "kill -9 of gateway and spawner"]), ("keep", ["kill -9 of the gateway"])],
    ids=["stop", "keep"],
)
async def test_a_room_of_a_crashed_node_opens_elsewhere_long_before_its_lease_has_ended(
    tmp_path: Path, loss: str, names: list[str]
) -> None:
    async with running_cluster(tmp_path, lease=20.0, count=2, loss=loss) as cluster:
        await cluster.end_grace()
        async with Load(cluster, make_rooms()) as load:
            for crash in (fault for fault in FAULTS if fault.name in names):
                await load.wait_playing(within=30)
                outcome = await run_fault(cluster, load, crash)
                assert outcome.seconds is not None
                assert outcome.seconds < 10, crash.name
            await load.end()
    assert not load.find_faults()


async def test_without_the_guardian_a_stopped_node_acts_although_another_has_its_rooms(tmp_path: Path) -> None:
    (stopped,) = (fault for fault in FAULTS if fault.name == "gateway stopped for 2 leases")
    async with running_cluster(tmp_path, lease=LEASE, is_guarded=False) as cluster:
        async with Load(cluster, make_rooms()) as load:
            await load.wait_playing(within=30)
            await run_fault(cluster, load, stopped)
            await load.end()

        acts = cluster.acts.read()
    assert list(find_overlaps(acts)), "the suite does not see what the guardian prevents"
    assert not find_shared_fences(acts)
