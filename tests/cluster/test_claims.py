"""Claims: one owner for each room, with fences that only rise."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from scalesocket.cluster.claims import Claims
from scalesocket.cluster.directory import Directory
from scalesocket.cluster.handed import Handed
from scalesocket.cluster.lease import Lease
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.preamble import Answer
from scalesocket.cluster.records import Free, Load, Lost, Owned, Recovering, Renewed, RoomName, Won
from scalesocket.cluster.requests import SessionLostError
from scalesocket.node.node import Node
from scalesocket.status import PoolView
from tests.cluster.engines import ClusterOfTests, EngineProcess, open_session, until


async def win(directory: Directory, room: str = "lobby") -> int:
    answer = await directory.claim("chat", room)
    assert isinstance(answer, Won), answer
    return answer.fence


async def test_a_room_belongs_to_the_node_that_claims_it_first(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        fence = await win(ann)

        answer = await bob.claim("chat", "lobby")

        assert isinstance(answer, Owned)
        assert (answer.owner.node, answer.owner.advertise, answer.fence) == ("a", "a.example:9100", fence)
        assert answer == await bob.find("chat", "lobby") == await ann.find("chat", "lobby")
        assert (ann.fence_of("chat", "lobby"), bob.fence_of("chat", "lobby")) == (fence, None)


async def test_rooms_of_the_same_name_in_two_apps_are_two_rooms(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        await ann.claim("chat", "x:lobby")

        assert isinstance(await bob.claim("game", "x:lobby"), Won)
        assert isinstance(await bob.claim("chat", "x"), Won)


async def test_of_500_claims_at_the_same_time_one_node_wins_and_all_others_name_it(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob, cluster.node("c") as cid:
        nodes = (ann, bob, cid)

        answers = await asyncio.gather(*(nodes[at % 3].claim("chat", "lobby") for at in range(500)))

        (winner,) = {nodes[at % 3].node for at, answer in enumerate(answers) if isinstance(answer, Won)}
        assert {answer.owner.node for answer in answers if isinstance(answer, Owned)} == {winner}
        fences = [answer.fence for answer in answers if isinstance(answer, Won)]
        assert len(set(fences)) == len(fences)  # each further claim of the winner has a fence of its own
        assert len(answers) - len(fences) >= 333


async def test_a_released_room_can_be_claimed_at_once_with_a_higher_fence(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        fence = await win(ann)

        ann.release("chat", "lobby", fence)
        await ann.find("chat", "lobby")  # sent after the release, on the same connection

        assert await win(bob) > fence
        assert ann.fence_of("chat", "lobby") is None


async def test_a_release_with_an_old_fence_changes_nothing(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        old = await win(ann)
        new = await win(ann)

        ann.release("chat", "lobby", old)

        found = await ann.find("chat", "lobby")
        assert isinstance(found, Owned)
        assert found.fence == new > old
        assert ann.fence_of("chat", "lobby") == new
        assert isinstance(await bob.claim("chat", "lobby"), Owned)


async def test_a_claim_whose_caller_is_cancelled_is_given_back(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        claim = asyncio.create_task(ann.claim("chat", "lobby"))
        for _ in range(3):
            await asyncio.sleep(0)  # until it is sent

        claim.cancel()

        await ann.find("chat", "lobby")  # sent after the claim
        await until(lambda: bob.claim("chat", "lobby"), lambda answer: isinstance(answer, Won))
        assert ann.held == 0


async def test_fences_rise_when_the_clock_of_the_engine_is_set_back(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann:
        first = await win(ann)
        cluster.set_clock_back()

        second, third = await win(ann), await win(ann)

        assert first < second < third


async def test_no_lease_ends_early_when_the_clock_of_the_engine_is_set_forward(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        await win(ann)

        for _ in range(3):
            cluster.set_clock_forward()

            assert isinstance(await bob.claim("chat", "lobby"), Owned)
        assert await ann.renew(Load()) == Renewed()


async def test_a_room_of_a_lost_node_is_claimed_when_its_lease_has_ended(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        fence = await win(ann)

        async def renew_and_claim() -> object:
            await bob.renew(Load())
            return await bob.claim("chat", "lobby")

        begin = asyncio.get_running_loop().time()
        answer = await until(renew_and_claim, lambda answer: isinstance(answer, Won))

        assert isinstance(answer, Won)
        assert answer.fence > fence
        assert asyncio.get_running_loop().time() - begin >= 0.9 * cluster.settings().lease
        assert bob.session is not None
        assert {key for key in cluster.engine.keys(cluster.name) if key.startswith("rooms:")} == {f"rooms:{bob.session.inc}"}
        assert await ann.renew(Load()) == Lost()


async def test_a_renewal_of_an_ended_session_fails_and_never_revives_it(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        await win(ann)
        cluster.end_lease("a")

        for _ in range(3):
            assert await ann.renew(Load()) == Lost()

        with pytest.raises(SessionLostError):
            await ann.claim("chat", "other")
        assert ann.doubt.is_set()
        await win(bob)
        assert ann.session is not None
        assert f"rooms:{ann.session.inc}" not in cluster.engine.keys(cluster.name)


async def test_a_renewal_of_a_missing_session_fails(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann:
        cluster.engine.client.delete(f"{{{cluster.name}}}:node:a")

        assert await ann.renew(Load()) == Lost()


async def test_a_claim_without_a_session_fails(cluster: ClusterOfTests) -> None:
    async with cluster.directory("a") as ann:
        with pytest.raises(SessionLostError, match="this node has no session"):
            await ann.claim("chat", "lobby")


async def test_a_room_whose_claim_got_no_answer_is_released_by_an_audit(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        await win(ann, "open")
        fence = await win(ann)
        del ann._held[RoomName("chat", "lobby")]  # as if the answer had not arrived

        async def renew_and_find() -> object:
            await ann.renew(Load())
            return await bob.find("chat", "lobby")

        await until(renew_and_find, lambda found: isinstance(found, Free))

        assert await win(bob) > fence
        assert isinstance(await bob.claim("chat", "open"), Owned)


async def test_an_audit_leaves_a_room_whose_claim_has_no_answer_yet(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann:
        name = RoomName("chat", "lobby")
        fence = await win(ann)
        assert ann.session is not None
        held: dict[RoomName, int] = {}

        await ann._audit.run(ann.listing, ann.session, held, {name})
        assert isinstance(await ann.find(*name), Owned)
        await ann._audit.run(ann.listing, ann.session, {name: fence}, ())
        assert isinstance(await ann.find(*name), Owned)

        await ann._audit.run(ann.listing, ann.session, held, ())
        await until(lambda: ann.find(*name), lambda found: isinstance(found, Free))


async def test_a_room_that_the_directory_has_lost_is_ended_by_an_audit(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann:
        lost: list[RoomName] = []
        ann.on_room_lost = lost.append
        await win(ann, "open")
        await win(ann)
        cluster.engine.client.delete(f"{{{cluster.name}}}:room:chat:lobby")
        cluster.engine.client.srem(f"{{{cluster.name}}}:rooms:{ann.session.inc if ann.session else ''}", "chat:lobby")

        async def renew() -> int:
            await ann.renew(Load())
            return len(lost)

        await until(renew, lambda count: count > 0)

        assert lost == [RoomName("chat", "lobby")]
        assert ann.held == 1


async def test_a_release_that_the_engine_did_not_confirm_is_sent_again(engine: EngineProcess) -> None:
    engine.start(is_kept=True)
    cluster = ClusterOfTests(engine, "games")
    async with cluster.node("a", lease=10.0) as ann:
        fence = await win(ann)
        engine.kill()
        ann.release("chat", "lobby", fence)
        engine.start(is_kept=True)

        async def renew() -> set[str]:
            await ann.renew(Load())
            return engine.keys("games")

        await until(renew, lambda keys: "room:chat:lobby" not in keys)
        assert await ann.find("chat", "lobby") == Recovering(pytest.approx(10.0, abs=1.0))


async def test_nothing_is_left_after_the_last_room_but_sessions_and_counters(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        fences = {f"room-{at}": await win(ann if at % 2 else bob, f"room-{at}") for at in range(50)}
        assert len(cluster.engine.keys(cluster.name)) == 50 + 2 + 5

        for at, (room, fence) in enumerate(fences.items()):
            (ann if at % 2 else bob).release("chat", room, fence)
        await ann.find("chat", "lobby")
        await bob.find("chat", "lobby")

        assert cluster.engine.keys(cluster.name) == {"engine", "fence", "nodes", "node:a", "node:b"}
        await ann.close_session()
        await bob.close_session()
        assert await until_keys(cluster, bob, {"engine", "fence"})


async def until_keys(cluster: ClusterOfTests, node: Directory, keys: set[str]) -> bool:
    async def ask() -> set[str]:
        await node.find("chat", "lobby")
        return cluster.engine.keys(cluster.name)

    return await until(ask, lambda found: found == keys) == keys


async def test_rooms_of_a_lost_node_are_removed_although_nobody_claims_them(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        await asyncio.gather(*(win(ann, f"room-{at}") for at in range(250)))
        cluster.end_lease("a")

        async def renew() -> set[str]:
            await bob.renew(Load())
            return {key for key in cluster.engine.keys(cluster.name) if key.startswith(("room", "ended"))}

        await until(renew, lambda keys: keys <= {"ended"})
        assert [node.is_alive for node in await bob.listing.nodes()] == [False, True]

        cluster.write("engine", clock=10**10)  # some hours later
        cluster.write("node:b", until=10**11)
        await until(renew, lambda keys: not keys)
        assert cluster.engine.keys(cluster.name) == {"engine", "fence", "nodes", "node:b"}


async def test_in_a_new_cluster_nobody_wins_a_room_for_one_lease(cluster: ClusterOfTests) -> None:
    async with cluster.directory("a") as ann:
        await open_session(ann)
        first = await ann.claim("chat", "lobby")
        assert isinstance(first, Recovering)
        assert 0.0 < first.seconds <= cluster.settings().lease
        assert isinstance(await ann.find("chat", "lobby"), Recovering)

        async def renew_and_claim() -> object:
            await ann.renew(Load())
            return await ann.claim("chat", "lobby")

        await until(renew_and_claim, lambda answer: isinstance(answer, Won))


async def test_more_claims_than_may_wait_for_the_engine_fail(cluster: ClusterOfTests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.cluster.link.MAX_WAITING", 10)
    async with cluster.node("a") as ann:
        answers = await asyncio.gather(*(ann.claim("chat", str(at)) for at in range(12)), return_exceptions=True)

        assert [type(answer) for answer in answers] == [Won] * 10 + [EngineUnavailableError] * 2


async def test_a_room_that_was_won_in_an_earlier_session_is_not_opened(
    cluster: ClusterOfTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster.node("a") as directory:
        claims = Claims(directory, cast(Lease, SimpleNamespace(is_valid=True)))
        claims.pools = {"chat": cast(PoolView, SimpleNamespace(rooms={}))}
        claim = directory.claim

        async def claim_and_lose_the_session(app: str, room: str) -> Won | Owned | Recovering:
            won = await claim(app, room)
            await directory.open_session()
            return won

        monkeypatch.setattr(directory, "claim", claim_and_lose_the_session)

        assert await claims.claim(RoomName("chat", "lobby")) is None
        assert not claims.may_open("chat", "lobby")
        await claims.close()


async def test_a_node_takes_a_client_whose_room_it_has_won_without_knowing_it_yet(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as directory:
        lease = cast(Lease, SimpleNamespace(is_valid=True))
        claims = Claims(directory, lease)
        claims.pools = {"chat": cast(PoolView, SimpleNamespace(rooms={}))}
        node = SimpleNamespace(_takes_rooms=lambda: True, lease=lease, directory=directory, claims=claims)
        handed = cast(Handed, SimpleNamespace(facts=SimpleNamespace(app="chat", room="lobby"), fence=1))

        claiming = asyncio.create_task(claims.claim(RoomName("chat", "lobby")))
        await asyncio.sleep(0)

        assert Node._decide(cast(Node, node), handed) is Answer.TAKEN
        await claiming
        assert Node._decide(cast(Node, node), handed) is Answer.NOT_HERE
        await claims.close()
