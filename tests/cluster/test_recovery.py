"""An engine that is restarted, emptied or replaced, and nodes that are lost or forgotten."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from scalesocket.cluster.directory import Directory, LeaseMismatchError
from scalesocket.cluster.link import EngineUnavailableError
from scalesocket.cluster.records import Free, Load, Lost, Owned, Recovering, Renewed, RoomName, Session, Summary, Taken, Won
from tests.cluster.engines import ClusterOfTests, EngineProcess, end_grace, open_session, until
from tests.cluster.test_claims import win

LEASE = 1.0


def restart_empty(engine: EngineProcess) -> None:
    engine.kill()
    engine.start()


def restart_from_file(engine: EngineProcess) -> None:
    engine.kill()
    engine.start(is_kept=True)


def flush(engine: EngineProcess) -> None:
    engine.client.flushall()


@asynccontextmanager
async def two_nodes(engine: EngineProcess) -> AsyncIterator[tuple[ClusterOfTests, Directory, Directory]]:
    engine.start(is_kept=True)
    cluster = ClusterOfTests(engine, "games")
    async with cluster.node("a", lease=LEASE) as ann, cluster.node("b", lease=LEASE) as bob:
        yield cluster, ann, bob


async def renew(*nodes: Directory) -> list[Renewed | Lost]:
    return [await until(lambda node=node: node.renew(Load()), lambda _: True) for node in nodes]  # type: ignore[misc]


@pytest.mark.parametrize("fault", [restart_empty, restart_from_file, flush])
async def test_after_a_restart_owners_report_their_rooms_and_nobody_wins_one_for_a_lease(
    engine: EngineProcess, fault: Callable[[EngineProcess], None]
) -> None:
    async with two_nodes(engine) as (_, ann, bob):
        fence = await win(ann)
        stale = await win(ann, "stale")
        session = ann.session

        fault(engine)
        ann._held.pop(RoomName("chat", "stale"))  # as if the engine had lost its release

        assert isinstance(await until(lambda: bob.find("chat", "lobby"), lambda _: True), Recovering)
        begin = asyncio.get_running_loop().time()
        assert await renew(ann, bob) == [Renewed(is_reported=True), Renewed(is_reported=True)]
        assert ann.session is not None
        assert session is not None
        assert ann.session.inc == session.inc  # the same incarnation: nothing of it has ended
        owned = await bob.claim("chat", "lobby")
        assert isinstance(owned, Owned)
        assert (owned.owner.node, owned.fence) == ("a", fence)
        assert [room.name.room for room in await bob.listing.rooms("chat")] == ["lobby"]
        for room in ("stale", "new"):
            assert isinstance(await bob.claim("chat", room), Recovering)
        assert isinstance(await ann.claim("chat", "lobby"), Recovering)

        async def renew_and_claim() -> object:
            assert await renew(ann, bob) == [Renewed(), Renewed()]
            return await bob.claim("chat", "stale")

        answer = await until(renew_and_claim, lambda answer: isinstance(answer, Won))
        assert isinstance(answer, Won)
        assert answer.fence > max(fence, stale)
        assert asyncio.get_running_loop().time() - begin >= 0.9 * LEASE
        assert isinstance(await bob.claim("chat", "lobby"), Owned)


async def test_fences_rise_over_an_engine_that_is_emptied_and_whose_clock_is_set_back(engine: EngineProcess) -> None:
    async with two_nodes(engine) as (cluster, ann, bob):
        await win(ann)
        cluster.set_clock_back()  # from here on fences are in the future of the engine
        highest = await win(ann)
        await renew(bob)
        await ann.close()

        flush(engine)
        await renew(bob)
        cluster.end_grace()

        assert await win(bob) > highest


async def test_rooms_that_were_not_reported_are_free_after_the_grace_period(engine: EngineProcess) -> None:
    async with two_nodes(engine) as (_, ann, bob):
        await win(ann)
        await ann.close()  # its process is gone

        restart_from_file(engine)

        async def renew_and_claim() -> object:
            await renew(bob)
            return await bob.claim("chat", "lobby")

        await until(renew_and_claim, lambda answer: isinstance(answer, Won))


async def test_a_node_that_comes_after_the_grace_period_has_lost_its_lease(engine: EngineProcess) -> None:
    async with two_nodes(engine) as (cluster, ann, bob):
        await win(ann)
        restart_empty(engine)
        await renew(bob)
        cluster.end_grace()

        assert await renew(ann) == [Lost()]


async def test_of_two_nodes_that_report_a_room_the_one_with_the_higher_fence_has_it(engine: EngineProcess) -> None:
    async with two_nodes(engine) as (cluster, ann, bob):
        lost: list[RoomName] = []
        ann.on_room_lost = lost.append
        old = await win(ann)
        cluster.end_lease("a")
        new = await win(bob)
        assert ann.fence_of("chat", "lobby") == old  # it has not noticed yet

        restart_empty(engine)
        await renew(bob, ann)

        assert lost == [RoomName("chat", "lobby")]
        assert (ann.held, bob.held) == (0, 1)
        found = await ann.find("chat", "lobby")
        assert isinstance(found, Owned)
        assert (found.owner.node, found.fence) == ("b", new)


async def test_many_rooms_are_reported_in_parts(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.cluster.directory.REPORT_SIZE", 7)
    async with two_nodes(engine) as (_, ann, bob):
        await asyncio.gather(*(win(ann, f"room-{at}") for at in range(30)))
        restart_empty(engine)

        await renew(ann)

        assert [node.owned for node in await bob.listing.nodes()] == [30]
        assert len(await bob.listing.rooms("chat")) == 30


async def test_a_report_that_breaks_off_does_not_renew_the_lease(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.cluster.directory.REPORT_SIZE", 10)
    async with two_nodes(engine) as (_, ann, bob):
        await asyncio.gather(*(win(ann, f"room-{at}") for at in range(30)))
        flush(engine)
        sent = 0
        run = ann._engine.run

        async def run_two(*arguments: object, **options: object) -> object:
            nonlocal sent
            sent += 1
            if sent > 2:
                raise OSError("the connection broke")
            return await run(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(ann._engine, "run", run_two)
        with pytest.raises(OSError, match="the connection broke"):
            await ann.renew(Load())
        monkeypatch.setattr(ann._engine, "run", run)

        assert isinstance(await bob.find("chat", "room-1"), Recovering)
        assert await renew(ann) == [Renewed(is_reported=True)]
        assert isinstance(await bob.find("chat", "room-1"), Owned)


async def test_a_report_that_is_not_complete_when_the_grace_period_ends_comes_too_late(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalesocket.cluster.directory.REPORT_SIZE", 10)
    async with two_nodes(engine) as (cluster, ann, bob):
        await asyncio.gather(*(win(ann, f"room-{at}") for at in range(30)))
        flush(engine)
        await renew(bob)
        run = ann._engine.run

        async def run_and_end_grace(*arguments: object, **options: object) -> object:
            answer = await run(*arguments, **options)  # type: ignore[arg-type]
            cluster.end_grace()
            return answer

        monkeypatch.setattr(ann._engine, "run", run_and_end_grace)

        assert await ann.renew(Load()) == Lost()
        await win(bob, "room-1")


async def test_a_report_begins_again_if_the_engine_is_emptied_meanwhile(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalesocket.cluster.directory.REPORT_SIZE", 10)
    async with two_nodes(engine) as (_, ann, bob):
        await asyncio.gather(*(win(ann, f"room-{at}") for at in range(30)))
        flush(engine)
        run = ann._engine.run

        async def run_and_flush(*arguments: object, **options: object) -> object:
            answer = await run(*arguments, **options)  # type: ignore[arg-type]
            flush(engine)
            return answer

        monkeypatch.setattr(ann._engine, "run", run_and_flush)
        with pytest.raises(EngineUnavailableError, match="restarted once more"):
            await ann.renew(Load())
        monkeypatch.setattr(ann._engine, "run", run)

        assert await renew(ann) == [Renewed(is_reported=True)]
        assert [node.owned for node in await bob.listing.nodes()] == [30]


async def test_a_second_process_under_the_name_of_a_node_waits_until_its_lease_ends(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as first, cluster.directory("a") as second:
        taken = await second.open_session()
        assert isinstance(taken, Taken)
        assert 0 < taken.seconds <= cluster.settings().lease
        assert await first.renew(Load()) == Renewed()

        cluster.end_lease("a")

        assert isinstance(await second.open_session(), Session)
        assert await first.renew(Load()) == Lost()


async def test_a_node_opens_a_new_session_instead_of_its_own_last_one(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        fence = await win(ann)
        await win(ann, "unclaimed")
        old = ann.session

        new = await open_session(ann)

        assert old is not None
        assert new.inc != old.inc
        assert ann.held == 0
        assert await win(bob) > fence

        async def renew_and_look() -> set[str]:
            await renew(ann)
            return cluster.engine.keys(cluster.name)

        await until(renew_and_look, lambda keys: "room:chat:unclaimed" not in keys)


async def test_an_opening_whose_answer_did_not_arrive_can_be_repeated(cluster: ClusterOfTests) -> None:
    async with cluster.directory("a") as ann:
        inc = ann._next_inc
        await open_session(ann)
        ann._session, ann._next_inc = None, inc

        assert (await open_session(ann)).inc == inc


async def test_nodes_with_different_leases_cannot_be_in_one_cluster(cluster: ClusterOfTests) -> None:
    async with cluster.node("a"), cluster.directory("b", lease=0.75) as bob:
        with pytest.raises(LeaseMismatchError, match=r"node a has the lease 500ms \(set the same\)"):
            await bob.open_session()

        cluster.end_lease("a")

        assert isinstance(await bob.open_session(), Session)


async def test_a_forgotten_node_loses_its_rooms_at_once(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        fence = await win(ann)

        left = await bob.listing.forget("a")

        assert left is not None
        assert 0 < left <= cluster.settings().lease
        assert await win(bob) > fence
        assert await ann.renew(Load()) == Lost()
        assert [node.address.node for node in await bob.listing.nodes()] == ["b"]
        assert await bob.listing.forget("a") is None


async def test_a_node_that_is_forgotten_in_the_grace_period_cannot_report(engine: EngineProcess) -> None:
    async with two_nodes(engine) as (_, ann, bob):
        await win(ann)
        restart_from_file(engine)
        await renew(bob)

        assert await bob.listing.forget("a") == 0
        await renew(bob)

        assert await renew(ann) == [Lost()]


async def test_rooms_that_were_kept_without_a_lease_are_reported_to_the_next_session(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        lost: list[RoomName] = []
        ann.on_room_lost = lost.append
        kept, taken = await win(ann, "kept"), await win(ann, "taken")
        cluster.end_lease("a")
        assert await win(bob, "taken") > taken

        await ann.open_session(keeps_rooms=True)

        assert lost == [RoomName("chat", "taken")]
        assert ann.fence_of("chat", "kept") == kept
        found = await bob.claim("chat", "kept")
        assert isinstance(found, Owned)
        assert (found.owner.node, found.fence) == ("a", kept)


async def test_a_kept_room_is_not_taken_from_its_new_owner_even_if_that_has_a_lower_fence(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        lost: list[RoomName] = []
        ann.on_room_lost = lost.append
        await win(ann)
        cluster.end_lease("a")
        await win(bob)
        cluster.write("room:chat:lobby", fence=1)  # as after an engine that was emptied, with another clock

        await ann.open_session(keeps_rooms=True)

        assert lost == [RoomName("chat", "lobby")]


async def test_a_closed_session_frees_its_rooms_and_leaves_the_list(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        await win(ann)

        await ann.close_session()

        assert cluster.engine.keys(cluster.name) == {"engine", "fence", "nodes", "node:b"}
        assert isinstance(await bob.find("chat", "lobby"), Free)
        assert [node.address.node for node in await bob.listing.nodes()] == ["b"]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}/0", "redis://node:pass%20word@127.0.0.1:{port}/3", "unix://{socket}"])
async def test_the_last_word_of_a_node_frees_its_rooms_without_redis_py(engine: EngineProcess, url: str) -> None:
    socket_path = engine.folder / "redis.sock"
    engine.start("--unixsocket", str(socket_path))
    engine.client.execute_command("ACL", "SETUSER", "node", "on", ">pass word", "allkeys", "allcommands")
    cluster = ClusterOfTests(engine, "games")
    database = 3 if url.endswith("3") else 0
    url = url.format(port=engine.port, socket=socket_path)
    async with cluster.directory("a", engine=url) as ann, cluster.directory("b", engine=url) as bob:
        assert ann.last_word() is None
        await open_session(ann)
        await open_session(bob)
        end_grace(engine, "games", database=database)
        fence = await win(ann)
        word = ann.last_word()
        assert word is not None
        assert "pass word" not in repr(word)

        if isinstance(word.address, str):
            reader, writer = await asyncio.open_unix_connection(word.address)
        else:
            reader, writer = await asyncio.open_connection(*word.address)
        writer.write(word.payload)
        answer = await reader.readuntil(b"closed\r\n")
        writer.close()

        assert b"-" not in answer
        assert await win(bob) > fence
        assert await ann.renew(Load()) == Lost()
        assert [node.is_alive for node in await bob.listing.nodes()] == [False, True]


async def test_nodes_and_rooms_are_listed_with_what_their_node_published(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        fences = {room: await win(ann, room) for room in ("one", "two")}
        await win(bob, "three")
        await bob.claim("game", "one")
        assert ann.session is not None
        summaries = [
            Summary(name=RoomName("chat", "one"), fence=fences["one"], state="open", players=3, metadata=b'{"map":1}'),
            Summary(name=RoomName("chat", "two"), fence=fences["two"] - 1, state="open", players=9),  # of an older room
            Summary(name=RoomName("chat", "three"), fence=1, state="open", players=9),  # of another node
        ]
        await ann.listing.publish(ann.session.inc, summaries)
        await ann.renew(Load(rooms=2, clients=3, is_draining=True))

        rooms = await bob.listing.rooms("chat")
        nodes = await bob.listing.nodes()

        assert [(room.name.room, room.node, room.players, room.metadata) for room in rooms] == [
            ("one", "a", 3, b'{"map":1}'),
            ("three", "b", 0, None),
            ("two", "a", 0, None),
        ]
        assert [room.fence for room in rooms if room.name.room == "one"] == [fences["one"]]
        assert abs(rooms[0].created - fences["one"] / 1e6) < 1
        assert [(node.address.node, node.load, node.owned, node.version) for node in nodes] == [
            ("a", Load(rooms=2, clients=3, is_draining=True), 2, "1.0"),
            ("b", Load(), 2, "1.0"),
        ]
        assert all(0 < node.seconds_left <= cluster.settings().lease for node in nodes)


async def test_summaries_are_published_in_bounded_parts(cluster: ClusterOfTests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesocket.cluster.listing.PUBLISHED_BYTES", 30_000)
    monkeypatch.setattr("scalesocket.cluster.listing.PUBLISHED_ROOMS", 10)
    async with cluster.node("a") as ann:
        fences = {f"room-{at:02}": await win(ann, f"room-{at:02}") for at in range(25)}
        assert ann.session is not None
        metadata = [b"m" * size for size in (10, 16_384, 16_384, 16_385)] + [b""] * 21

        await ann.listing.publish(
            ann.session.inc,
            [
                Summary(name=RoomName("chat", room), fence=fence, state="open", players=at, metadata=metadata[at])
                for at, (room, fence) in enumerate(fences.items())
            ],
        )

        rooms = await ann.listing.rooms("chat")
        assert [room.players for room in rooms] == list(range(25))
        assert [len(room.metadata or b"") for room in rooms] == [10, 16_384, 16_384, 0] + [0] * 21


async def test_a_ticket_is_taken_once_by_one_of_many(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann, cluster.node("b") as bob:
        assert await ann.listing.put_ticket(b"hash", b"who", 30.0)
        assert not await bob.listing.put_ticket(b"hash", b"another", 30.0)

        taken = await asyncio.gather(*((ann, bob)[at % 2].listing.take_ticket(b"hash") for at in range(20)))

        assert sorted(filter(None, taken)) == [b"who"]


async def test_a_ticket_expires(cluster: ClusterOfTests) -> None:
    async with cluster.node("a") as ann:
        await ann.listing.put_ticket(b"hash", b"who", 0.02)

        assert await until(lambda: asyncio.sleep(0.05, True), bool)
        assert await ann.listing.take_ticket(b"hash") is None
