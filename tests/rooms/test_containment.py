"""A bug affects only the client or room it happened in, and all counts stay consistent."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalesocket.edge.client import Hold
from scalesocket.errors import BACKEND_ENDED, INTERNAL_ERROR, SHUTTING_DOWN
from scalesocket.rooms import room
from scalesocket.rooms.codec import Codec
from scalesocket.rooms.history import History
from scalesocket.rooms.state import IllegalMoveError, Move, State, next_state
from tests.rooms.memory import MemoryClient, Stage, play, request, site_of


class Mistake(Exception):
    """What no code should ever raise."""


def fail(*_: object, **__: object) -> Any:
    raise Mistake


def check_sums(stage: Stage) -> None:
    gateway = stage.gateway
    members = sum(len(room.clients) for pool in gateway.find_all_pools() for room in pool.all_rooms)
    assert gateway.connections == members
    assert sum(pool.connections for pool in gateway.find_all_pools()) == members
    assert sum(gateway.admission._addresses._open.values()) == members
    assert min(gateway.admission._addresses._open.values(), default=1) > 0


def test_a_client_whose_joining_fails_is_turned_away_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        ann = await stage.joined()
        with monkeypatch.context() as patch:
            patch.setattr(Codec, "join_record", fail)
            bob = MemoryClient(request())

            assert stage.join(bob) is INTERNAL_ERROR

        check_sums(stage)
        stage.room().leave(bob)  # as its connection is lost
        check_sums(stage)
        stage.backends[0].say(b"on we go\n")
        assert ann.heard == [b"on we go"]

    play(scene)


def test_a_room_whose_first_client_fails_to_join_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Codec, "join_record", fail)
            assert stage.join(MemoryClient(request())) is INTERNAL_ERROR

        await asyncio.sleep(1.0)

        assert stage.gateway.pools["game"].is_empty

    play(scene)


def test_the_others_receive_every_message_when_one_client_fails_to_send() -> None:
    async def scene(stage: Stage) -> None:
        ann, bad, eve = [await stage.joined() for _ in range(3)]
        bad.send = fail  # type: ignore[method-assign]

        for number in range(3):
            stage.backends[0].say(b"%d\n" % number)

        assert ann.heard == eve.heard == [b"0", b"1", b"2"]
        assert bad.closed == INTERNAL_ERROR
        check_sums(stage)

    play(scene)


@pytest.mark.parametrize("when", ["the room stops", "it is held", "it is released", "an edit", "a ping"])
def test_a_client_that_fails_does_not_affect_the_others(when: str) -> None:
    async def scene(stage: Stage) -> None:
        clients = [await stage.joined() for _ in range(3)]
        bad, room = clients[1], stage.room()
        others = [clients[0], clients[2]]
        match when:
            case "the room stops":
                bad.close = fail  # type: ignore[method-assign]
                room.stop(BACKEND_ENDED)
                assert [client.closed for client in others] == [BACKEND_ENDED] * 2
                assert bad.was_aborted
            case "it is held":
                bad.pause_reading = fail  # type: ignore[method-assign]
                room.output.backend_blocked()
                assert [client.held for client in others] == [Hold.BACKEND] * 2
            case "it is released":
                bad.resume_reading = fail  # type: ignore[method-assign]
                room.output.backend_blocked()
                room.output.backend_unblocked()
                assert [client.held for client in others] == [Hold(0)] * 2
            case "an edit":
                bad.apply = fail  # type: ignore[method-assign]
                stage.gateway.apply(site_of(max_clients=7, ping_interval=1.0))
                assert all(client.app is not None and client.app.max_clients == 7 for client in others)
            case "a ping":
                bad.ping = fail  # type: ignore[method-assign]
                await asyncio.sleep(3.0)
                assert all(client.pings for client in others)
        assert bad.id not in room.clients
        check_sums(stage)

    play(scene, ping_interval=1.0, ping_timeout=100.0)


def block_on_write(stage: Stage) -> None:
    """Fill the backend's buffer with its next input: a real transport reports that within the write."""
    backend = stage.backends[0]

    def write(records: bytes) -> bool:
        backend.write = lambda _: True  # type: ignore[method-assign]
        backend.receiver.backend_blocked()
        return True

    backend.write = write  # type: ignore[method-assign]


def test_a_client_that_fails_while_it_leaves_is_counted_once() -> None:
    async def scene(stage: Stage) -> None:
        _, bad = await stage.joined(), await stage.joined()
        bad.pause_reading = fail  # type: ignore[method-assign]
        block_on_write(stage)

        stage.room().leave(bad)

        check_sums(stage)

    play(scene, routing="json")


def test_a_client_that_fails_while_it_joins_leaves_no_count_behind() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined()
        block_on_write(stage)
        bad = MemoryClient(request(peer=("192.0.2.2", 4321)))
        bad.pause_reading = fail  # type: ignore[method-assign]

        stage.join(bad)

        assert bad.closed == INTERNAL_ERROR
        check_sums(stage)

    play(scene, routing="json")


def test_a_room_whose_last_client_fails_while_another_leaves_lingers() -> None:
    async def scene(stage: Stage) -> None:
        ann, bad = await stage.joined(), await stage.joined()
        bad.pause_reading = fail  # type: ignore[method-assign]
        block_on_write(stage)

        stage.room().leave(ann)

        assert bad.closed == INTERNAL_ERROR
        assert stage.room().status().state == "lingering"
        check_sums(stage)

    play(scene, routing="json", idle_timeout=30.0)


def test_a_router_that_fails_ends_its_room_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        ann, bob = await stage.joined(room="one"), await stage.joined(room="two")
        stage.room("one")._codec.route = fail

        stage.backends[0].say(b"lost\n")
        stage.backends[1].say(b"heard\n")

        assert ann.closed == INTERNAL_ERROR
        assert bob.heard == [b"heard"]
        check_sums(stage)

    play(scene)


# --- Random faults

STEPS = ("join", "join", "join", "leave", "say", "say", "block", "unblock", "exit", "edit", "restart", "retire", "stop", "wait")
FAULTY = ("send", "close", "ping", "apply", "pause_reading", "resume_reading", "abort")


class FaultyClient(MemoryClient):
    """Fails now and then."""

    chance: Callable[[], bool] = staticmethod(lambda: False)


def _make_faulty(name: str) -> Any:
    method = getattr(MemoryClient, name)

    def call(self: FaultyClient, *arguments: Any) -> Any:
        if self.chance():
            raise Mistake(name)
        return method(self, *arguments)

    return call


for _name in FAULTY:
    setattr(FaultyClient, _name, _make_faulty(_name))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=60))
def test_all_sums_come_out_even_over_random_faults(seed: int, steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)

    def chance() -> bool:
        return dice.random() < 0.15

    def faulty(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if chance():
                raise Mistake
            return method(*arguments)

        return call

    async def scene(stage: Stage) -> None:
        clients: list[FaultyClient] = []
        for step in steps:
            await take_step(stage, step, clients, dice)
            check_sums(stage)
        for client in clients:
            client.room.leave(client)
        check_sums(stage)
        assert stage.gateway.connections == 0
        await asyncio.sleep(30.0)
        assert all(pool.is_empty for pool in stage.gateway.find_all_pools())

    illegal: list[str] = []

    def noted_move(state: State, move: Move) -> State:
        try:
            return next_state(state, move)
        except IllegalMoveError as error:
            illegal.append(str(error))
            raise

    with monkeypatch.context() as patch:
        patch.setattr(room, "next_state", noted_move)
        patch.setattr(FaultyClient, "chance", staticmethod(chance))
        for owner, name in ((Codec, "join_record"), (Codec, "leave_record"), (History, "replay")):
            patch.setattr(owner, name, faulty(getattr(owner, name)))
        play(
            scene,
            history={"size": 3},
            routing="json",
            restart="on-failure",
            ping_interval=1.0,
            ping_timeout=2.0,
            max_clients=4,
            idle_timeout=dice.choice([0.0, 5.0]),
        )
    assert illegal == []


async def take_step(stage: Stage, step: str, clients: list[FaultyClient], dice: random.Random) -> None:
    rooms = [room for pool in stage.gateway.pools.values() for room in pool.rooms.values()]
    backends = [backend for backend in stage.backends if not backend._exit.done()]
    match step:
        case "join":
            client = FaultyClient(request(), reads=dice.choice([0, float("inf")]))
            if stage.join(client, room=dice.choice(["one", "two"])) is None:
                clients.append(client)
        case "leave" if clients:
            client = clients.pop(dice.randrange(len(clients)))
            client.room.leave(client)
        case "say" if backends:
            dice.choice(backends).say(b'{"m":1}\n' * dice.choice([1, 50_000]))
        case "block" if rooms:
            dice.choice(rooms).output.backend_blocked()
        case "unblock" if rooms:
            dice.choice(rooms).output.backend_unblocked()
        case "exit" if backends:
            dice.choice(backends).end(dice.choice([0, 1]))
        case "edit":
            settings = {
                "history": {"size": 3},
                "routing": "json",
                "restart": "on-failure",
                "max_clients": dice.choice([3, 4]),
                "idle_timeout": dice.choice([0.0, 5.0]),
            }
            stage.gateway.apply(site_of(**settings, ping_interval=1.0, ping_timeout=2.0))
        case "retire" if rooms:
            dice.choice(rooms).retire(SHUTTING_DOWN)
        case "stop" if rooms:
            dice.choice(rooms).stop(SHUTTING_DOWN)
        case "restart":
            stage.gateway.restart_app("game")
        case "wait":
            await asyncio.sleep(dice.choice([0.0, 0.01, 3.0]))
    await asyncio.sleep(0)
