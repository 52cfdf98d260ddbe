"""The lease: renewed in time, given up in time, and opened again. Real engines, real time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest

from scalesocket.cluster import lease as lease_module
from scalesocket.cluster.directory import Directory, LeaseMismatchError
from scalesocket.cluster.lease import USABLE, Lease, boottime
from scalesocket.cluster.records import Load, Lost, Owned, RoomName, Won
from tests.cluster.engines import LEASE, ClusterOfTests, EngineProcess, until
from tests.cluster.test_claims import win
from tests.conftest import capture_all_logs


class LeasedNode:
    """A directory with its lease, whose callbacks only note that they were called."""

    def __init__(self, cluster: ClusterOfTests, directory: Directory, seconds: float, *, keeps_rooms: bool = False) -> None:
        self.cluster = cluster
        self.directory = directory
        self.deadlines: list[float] = []
        self.unlimited = 0
        """Renewals after which the rooms have no deadline."""
        self.lost_at: list[float] = []
        self.may_end = asyncio.Event()
        """Cleared: the rooms of a lost lease have not ended yet."""
        self.may_end.set()
        self.load = Load()
        self.lease = Lease(
            directory,
            seconds,
            load=lambda: self.load,
            on_deadline=self._note_deadline,
            on_lost=self._end_rooms,
            keeps_rooms=keeps_rooms,
        )
        self.seconds = seconds

    def _note_deadline(self, deadline: float | None) -> None:
        if deadline is None:
            self.unlimited += 1
        else:
            self.deadlines.append(deadline)

    async def _end_rooms(self) -> None:
        self.lost_at.append(boottime())
        await self.may_end.wait()

    async def wait_renewals(self, count: int, *, within: float) -> None:
        """Wait until the lease was opened or renewed so often."""
        await until(lambda: asyncio.sleep(0, self.lease.renewals), lambda renewals: renewals >= count, within=within)

    async def wait_lost(self, count: int = 1) -> None:
        await until(lambda: asyncio.sleep(0, self.lease.lost), lambda lost: lost >= count)


@asynccontextmanager
async def leased(cluster: ClusterOfTests, node: str, *, seconds: float = LEASE, **changes: Any) -> AsyncIterator[LeasedNode]:
    async with cluster.directory(node, lease=seconds, **changes) as directory:
        leased = LeasedNode(cluster, directory, seconds, keeps_rooms=cluster.settings(**changes).keeps_rooms)
        running = asyncio.create_task(leased.lease.run())
        try:
            await leased.wait_renewals(1, within=20.0)
            cluster.end_grace()
            yield leased
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def test_a_lease_is_renewed_five_times_in_its_length_and_each_deadline_is_later(cluster: ClusterOfTests) -> None:
    seconds = 2.0
    async with leased(cluster, "a", seconds=seconds) as node:
        assert node.lease.is_valid

        await until(lambda: asyncio.sleep(0, node.lease.renewals), lambda count: count >= 5)

        assert node.lease.is_valid
        assert node.lease.lost == 0
        steps = [after - before for before, after in pairwise(node.deadlines)]
        assert all(0.0 < step < seconds / 2 for step in steps)
        assert min(steps) <= seconds / 4
        assert node.lease.deadline == node.deadlines[-1] <= boottime() + USABLE * seconds
        assert 0 < node.lease.seconds_left <= USABLE * seconds


async def test_the_load_of_a_node_is_sent_with_each_renewal(cluster: ClusterOfTests) -> None:
    async with leased(cluster, "a") as node, cluster.directory("b") as bob:
        node.load = Load(rooms=3, clients=14)

        nodes = await until(bob.listing.nodes, lambda nodes: nodes[0].load.rooms == 3)

        assert nodes[0].load.clients == 14


async def test_a_lease_ends_here_before_it_does_in_the_engine(engine: EngineProcess) -> None:
    engine.start()
    cluster = ClusterOfTests(engine, "games")
    seconds = 2.0
    async with leased(cluster, "a", seconds=seconds) as node, cluster.node("b", lease=seconds) as bob:
        await win(node.directory)
        node.may_end.clear()
        engine.pause()
        paused_at = boottime()

        await node.wait_lost()

        assert not node.lease.is_valid
        assert node.lease.seconds_left == 0
        assert node.lost_at[0] >= node.deadlines[-1]
        assert node.lost_at[0] - paused_at < seconds
        engine.resume()
        assert isinstance(await until(lambda: bob.find("chat", "lobby"), lambda _: True), Owned)
        node.may_end.set()


async def test_after_a_lost_lease_a_new_incarnation_begins_when_all_rooms_have_ended(engine: EngineProcess) -> None:
    engine.start()
    cluster = ClusterOfTests(engine, "games")
    async with leased(cluster, "a") as node:
        await win(node.directory)
        old = node.directory.session
        node.may_end.clear()
        engine.client.execute_command("CLIENT", "PAUSE", str(round(2 * LEASE * 1000)), "ALL")

        await node.wait_lost()

        await asyncio.sleep(3 * LEASE)  # nothing is to happen, although the engine answers again
        assert not node.lease.is_valid
        assert node.directory.session is old
        renewals = node.lease.renewals
        node.may_end.set()
        await node.wait_renewals(renewals + 1, within=5.0)
        assert node.directory.session is not None
        assert old is not None
        assert node.directory.session.inc != old.inc
        assert node.lease.is_valid
        assert node.directory.held == 0


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_restart_of_the_engine_that_is_shorter_than_the_lease_stops_nobody(engine: EngineProcess, is_kept: bool) -> None:
    engine.start(is_kept=is_kept)
    cluster = ClusterOfTests(engine, "games")
    async with leased(cluster, "a", seconds=3.0) as ann, leased(cluster, "b", seconds=3.0) as bob:
        fence = await win(ann.directory)
        sessions = [node.directory.session.inc for node in (ann, bob) if node.directory.session]

        engine.kill()
        await asyncio.to_thread(engine.start, is_kept=is_kept)
        since = boottime()
        for node in (ann, bob):
            await until(lambda node=node: asyncio.sleep(0, node.deadlines[-1]), lambda last: last > since + USABLE * 3.0)

        assert [node.lease.lost for node in (ann, bob)] == [0, 0]
        assert [node.directory.session.inc for node in (ann, bob) if node.directory.session] == sessions
        found = await bob.directory.claim("chat", "lobby")
        assert isinstance(found, Owned)
        assert (found.owner.node, found.fence) == ("a", fence)


async def test_an_engine_that_stands_still_for_two_leases_ends_all_leases_and_the_rooms_are_claimed_after_it(
    engine: EngineProcess,
) -> None:
    engine.start()
    cluster = ClusterOfTests(engine, "games")
    async with leased(cluster, "a") as ann, leased(cluster, "b") as bob:
        fence = await win(ann.directory)
        engine.pause()
        await ann.wait_lost()
        await bob.wait_lost()
        await asyncio.sleep(LEASE)
        engine.resume()

        answer = await until(lambda: bob.directory.claim("chat", "lobby"), lambda answer: isinstance(answer, Won))

        assert isinstance(answer, Won)
        assert answer.fence > fence


async def test_an_engine_that_stands_still_again_and_again_for_a_third_of_a_lease_costs_no_lease_and_no_connection(
    engine: EngineProcess,
) -> None:
    engine.start()
    cluster, seconds = ClusterOfTests(engine, "games"), 1.5
    async with leased(cluster, "a", seconds=seconds) as node:
        await win(node.directory)
        connections, began = engine.client.info("stats")["total_connections_received"], boottime()
        with capture_all_logs() as events:
            for number in range(3):
                engine.client.execute_command("CLIENT", "PAUSE", str(round(0.3 * seconds * 1000)), "ALL")
                assert isinstance(await node.directory.claim("chat", f"slow{number}"), Won)
            await until(lambda: asyncio.sleep(0, node.deadlines[-1]), lambda last: last > began + (3 * 0.3 + USABLE) * seconds)

        assert node.lease.lost == 0
        assert all(deadline <= boottime() + USABLE * seconds for deadline in node.deadlines)
        assert engine.client.info("stats")["total_connections_received"] == connections
    assert [event["event"] for event in events if event["log_level"] != "debug"] == ["engine slow"]


async def test_a_late_answer_extends_the_lease_from_before_the_renewal_was_sent(engine: EngineProcess) -> None:
    engine.start()
    cluster, seconds = ClusterOfTests(engine, "games"), 2.0
    async with leased(cluster, "a", seconds=seconds) as node:
        engine.pause()
        paused_at = boottime()
        await until(lambda: asyncio.sleep(0, node.lease.is_late), bool)
        known = len(node.deadlines)  # also with an answer that was on its way
        engine.resume()
        resumed_at = boottime()

        await until(lambda: asyncio.sleep(0, len(node.deadlines)), lambda count: count > known)

        late = node.deadlines[known]
        assert paused_at < late - USABLE * seconds < resumed_at - 0.05 * seconds
        assert node.lease.lost == 0


async def test_a_machine_that_was_suspended_has_lost_its_lease_although_the_engine_would_renew_it(
    cluster: ClusterOfTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with leased(cluster, "a", seconds=5.0) as node:
        assert node.lease.is_valid

        monkeypatch.setattr(lease_module, "boottime", lambda: boottime() + 4.1)  # beyond four fifths of the lease

        assert not node.lease.is_valid
        await node.wait_lost()
        await until(lambda: asyncio.sleep(0, node.lease.is_valid), bool)


async def test_a_renewal_after_the_deadline_does_not_count(cluster: ClusterOfTests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LOOK", 60.0)  # the process was stopped, and the renewal is the first to run again
    async with leased(cluster, "a", seconds=3.0) as node:
        monkeypatch.setattr(lease_module, "boottime", lambda: boottime() + 2.5)

        await node.wait_lost()

        assert len(node.lost_at) == 1


async def test_a_claim_that_finds_no_session_makes_the_lease_look_at_once(cluster: ClusterOfTests) -> None:
    async with leased(cluster, "a", seconds=20.0) as node:
        cluster.end_lease("a")

        with suppress(Exception):
            await node.directory.claim("chat", "lobby")

        await node.wait_lost()  # the next renewal would be four seconds away
        await until(lambda: asyncio.sleep(0, node.lease.is_valid), bool, within=2.0)


async def test_a_node_that_stops_frees_its_name_and_its_rooms(cluster: ClusterOfTests) -> None:
    async with cluster.node("b") as bob:
        async with leased(cluster, "a") as node:
            await win(node.directory)

        assert not node.lease.is_valid
        assert isinstance(await bob.claim("chat", "lobby"), Won)


async def test_a_process_waits_for_the_lease_of_another_with_its_name_and_logs_it(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as first, cluster.directory("a") as directory:
        node = LeasedNode(cluster, directory, LEASE)
        with capture_all_logs() as events:
            running = asyncio.create_task(node.lease.run())
            try:
                for _ in range(5):
                    await first.renew(Load())
                    await asyncio.sleep(LEASE / 10)
                assert not node.lease.is_valid

                await until(lambda: asyncio.sleep(0, node.lease.is_valid), bool)  # the first is renewed no more

                assert await first.renew(Load()) == Lost()
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
        said = [event for event in events if "another process has the name" in event["event"]]
        assert [(event["node"], event["address"]) for event in said] == [("a", "a.example:9100")]


async def test_another_lease_than_that_of_the_other_nodes_is_an_error(cluster: ClusterOfTests) -> None:
    async with cluster.node("a"), cluster.directory("b", lease=0.75) as directory:
        with pytest.raises(LeaseMismatchError):
            await LeasedNode(cluster, directory, 0.75).lease.run()


async def test_with_keep_rooms_go_on_without_a_lease_except_those_that_another_node_has_taken(engine: EngineProcess) -> None:
    engine.start(is_kept=True)
    cluster = ClusterOfTests(engine, "games")
    async with leased(cluster, "a", on_engine_loss="keep") as ann, cluster.node("b") as bob:
        lost: list[RoomName] = []
        ann.directory.on_room_lost = lost.append
        kept, taken = await win(ann.directory, "kept"), await win(ann.directory, "taken")

        engine.pause()
        await asyncio.sleep(2 * LEASE)  # nothing is to happen
        assert ann.lease.is_valid
        assert ann.directory.held == 2
        engine.resume()
        cluster.end_lease("a")
        assert await until(lambda: win(bob, "taken"), bool) > taken

        await until(lambda: asyncio.sleep(0, lost), bool)

        assert lost == [RoomName("chat", "taken")]
        assert ann.directory.fence_of("chat", "kept") == kept
        assert (ann.deadlines, ann.lost_at) == ([], [])
        assert ann.unlimited == ann.lease.renewals
        assert isinstance(await bob.claim("chat", "kept"), Owned)


async def test_faults_of_the_engine_are_logged_once_and_so_is_their_end(engine: EngineProcess) -> None:
    engine.start()
    cluster = ClusterOfTests(engine, "games")
    with capture_all_logs() as events:
        async with leased(cluster, "a", seconds=5.0) as node:
            engine.kill()
            await until(lambda: asyncio.sleep(0, [one for one in events if one["event"] == "engine unavailable"]), bool)
            renewals = node.lease.renewals
            await asyncio.to_thread(engine.start)
            await until(lambda: asyncio.sleep(0, node.lease.renewals), lambda count: count > renewals)

    names = [event["event"] for event in events if event["log_level"] != "debug"]
    assert names == ["lease opened", "engine unavailable", "engine answers again"]
