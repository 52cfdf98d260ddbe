"""What may happen to a cluster. A fault that has returned is over, but the cluster may still need to be mended."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.cluster.load import Load
from tests.cluster.running import Node, RunningCluster, until, wait_none

Inflict = Callable[[RunningCluster, Node, "Watch"], Awaitable[None]]
ORPHANS: Final = 10.0
"""Seconds after the death of a node in which its programs end, on a busy machine."""
RECOVERY: Final = 10.0
"""Seconds in which a room opens elsewhere once it may, on a busy machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault, and what must hold for it."""

    name: str
    inflict: Inflict
    stops_rooms: bool | None
    """Whether the rooms of the node end, and open elsewhere; False: no room of any node ends. None: either."""
    needs_machines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a fault did."""

    seconds: float | None
    """From its begin until each room of the node had a new backend and a client; None if that was not waited for."""
    moved: int
    """Rooms whose backend was replaced."""


class Watch:
    """Lets a fault wait until the rooms of its node have recovered, while it lasts."""

    def __init__(self, load: Load, rooms: list[str]) -> None:
        self.load = load
        self.rooms = rooms
        self.started = time.monotonic()
        self.recovery: float | None = None

    async def wait_recovered(self, within: float) -> None:
        """Wait until each of the rooms has a new backend, which a client reaches. `within` counts from the begin of the fault."""
        left = self.started + within - time.monotonic()
        self.recovery = await self.load.wait_recovered(self.rooms, since=self.started, within=left)


async def kill_gateway(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    family = node.family
    node.send_signal(signal.SIGKILL)
    await wait_none(family, within=ORPHANS)
    await watch.wait_recovered(cluster.lease + RECOVERY)


async def kill_spawner(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    node.send_signal(signal.SIGKILL, node.spawner)
    await asyncio.sleep(cluster.lease)


async def kill_both(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    family = node.family
    node.send_signal(signal.SIGKILL, node.gateway, node.spawner)
    await wait_none(family, within=ORPHANS)
    await watch.wait_recovered(cluster.lease + RECOVERY)


def stop_gateway(leases: float) -> Inflict:
    async def inflict(cluster: RunningCluster, node: Node, watch: Watch) -> None:
        node.send_signal(signal.SIGSTOP)
        await stay(cluster, watch, leases, is_stopped=True)
        node.send_signal(signal.SIGCONT)

    return inflict


async def stop_gateway_and_spawner(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    stopped = (node.gateway, node.spawner)
    node.send_signal(signal.SIGSTOP, *stopped)
    await stay(cluster, watch, 2, is_stopped=True)
    node.send_signal(signal.SIGCONT, *stopped)


async def stop_spawner(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    stopped = node.spawner
    node.send_signal(signal.SIGSTOP, stopped)
    await asyncio.sleep(2 * cluster.lease)
    node.send_signal(signal.SIGCONT, stopped)


async def restart_engine_empty(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    cluster.engine.kill()
    cluster.engine.start(*cluster.engine_options)


async def restart_engine_from_file(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    client = cluster.engine.client
    client.config_set("appendonly", "yes")
    client.config_set("appendfsync", "always")

    def is_written() -> bool:
        state = client.info("persistence")
        return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]

    await until(is_written, "the engine has written its file", within=10)
    cluster.engine.kill()
    cluster.engine.start(*cluster.engine_options, is_kept=True)


async def lose_engine(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    cluster.engine.kill()
    await asyncio.sleep(2 * cluster.lease)
    cluster.engine.start(*cluster.engine_options)


async def stop_engine(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    cluster.engine.pause()
    await asyncio.sleep(2 * cluster.lease)
    cluster.engine.resume()


async def flush_engine(cluster: RunningCluster, node: Node, watch: Watch) -> None:
    cluster.engine.client.flushall()


def pause_engine(leases: float) -> Inflict:
    async def inflict(cluster: RunningCluster, node: Node, watch: Watch) -> None:
        cluster.engine.client.client_pause(int(1000 * leases * cluster.lease))
        await asyncio.sleep(leases * cluster.lease)

    return inflict


def cut(link: str) -> Inflict:
    async def inflict(cluster: RunningCluster, node: Node, watch: Watch) -> None:
        assert cluster.machines is not None
        number = cluster.nodes.index(node) + 1
        cluster.machines.set_link(number, link, is_up=False)
        if link == "engine":
            await stay(cluster, watch, 2)
        else:
            await asyncio.sleep(2 * cluster.lease)
        cluster.machines.set_link(number, link, is_up=True)

    return inflict


async def stay(cluster: RunningCluster, watch: Watch, leases: float, *, is_stopped: bool = False) -> None:
    """Let a fault last. From two leases on, the rooms must have recovered elsewhere meanwhile.

    `is_stopped`: connections to the node stay open, so that clients must first lose patience.
    """
    if leases >= 2:
        await watch.wait_recovered(RECOVERY + (max(cluster.lease, watch.load.patience) if is_stopped else cluster.lease))
    left = watch.started + leases * cluster.lease - time.monotonic()
    await asyncio.sleep(max(0.0, left))


FAULTS: Final = (
    Fault(name="kill -9 of the gateway", inflict=kill_gateway, stops_rooms=True),
    Fault(name="kill -9 of the spawner", inflict=kill_spawner, stops_rooms=None),
    Fault(name="kill -9 of gateway and spawner", inflict=kill_both, stops_rooms=True),
    Fault(name="gateway stopped for 0.3 leases", inflict=stop_gateway(0.3), stops_rooms=False),
    Fault(name="gateway stopped for 0.95 leases", inflict=stop_gateway(0.95), stops_rooms=None),
    Fault(name="gateway stopped for 2 leases", inflict=stop_gateway(2), stops_rooms=True),
    Fault(name="spawner stopped for 2 leases", inflict=stop_spawner, stops_rooms=None),
    Fault(name="gateway and spawner stopped for 2 leases", inflict=stop_gateway_and_spawner, stops_rooms=True),
    Fault(name="engine killed and restarted empty", inflict=restart_engine_empty, stops_rooms=False),
    Fault(name="engine killed and restarted from its file", inflict=restart_engine_from_file, stops_rooms=False),
    Fault(name="engine away for 2 leases", inflict=lose_engine, stops_rooms=None),
    Fault(name="engine stopped for 2 leases", inflict=stop_engine, stops_rooms=None),
    Fault(name="FLUSHALL", inflict=flush_engine, stops_rooms=False),
    Fault(name="CLIENT PAUSE for 0.3 leases", inflict=pause_engine(0.3), stops_rooms=False),
    Fault(name="CLIENT PAUSE for 2 leases", inflict=pause_engine(2), stops_rooms=None),
    Fault(name="node without the engine for 2 leases", inflict=cut("engine"), stops_rooms=True, needs_machines=True),
    Fault(name="node without the others for 2 leases", inflict=cut("peers"), stops_rooms=False, needs_machines=True),
)


async def run_fault(cluster: RunningCluster, load: Load, fault: Fault) -> Outcome:
    """Break a cluster in which all clients play, mend it, and wait until they play again. Check what must hold for the rooms."""
    node = cluster.owner_of(load.rooms[0])
    before = {room: load.fence_of(room, before=time.monotonic()) for room in load.rooms}
    watch = Watch(load, [room for room in load.rooms if cluster.owner_of(room) is node])
    await fault.inflict(cluster, node, watch)
    await cluster.mend()
    if fault.stops_rooms is False:
        await asyncio.sleep(1.2 * cluster.lease)  # until whatever it broke would have had an effect
    await load.wait_playing(within=3 * cluster.lease + 10)
    after = {room: load.fence_of(room, before=time.monotonic()) for room in load.rooms}
    moved = sum(before[room] != after[room] for room in load.rooms)
    if fault.stops_rooms:
        assert all(before[room] < after[room] for room in watch.rooms), f"{watch.rooms}: {before} -> {after}"
    elif fault.stops_rooms is False:
        assert before == after, f"rooms were stopped: {before} -> {after}\n{load.describe()}"
    return Outcome(seconds=watch.recovery, moved=moved)
