"""The clients of one room, alone: who is sent what, in which order, and what the failure of one costs."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalesocket.config.model import App
from scalesocket.edge.audience import CLIENTS_PER_SLICE, Audience
from scalesocket.edge.client import Client, Hold
from scalesocket.edge.ports import Member
from scalesocket.errors import BACKEND_ENDED, INTERNAL_ERROR, TOO_SLOW, Close
from scalesocket.status import Counts
from scalesocket.wire.batch import Batch, ClientId
from tests.rooms.memory import HIGH_WATER, MemoryClient, request, run_virtual


class Source:
    """Stands for the output of a backend, and counts what the audience reports."""

    def __init__(self) -> None:
        self.has_more = True
        self.congestion_changes = 0
        self.waiting_changes = 0

    def congestion_changed(self) -> None:
        self.congestion_changes += 1

    def waiting_changed(self) -> None:
        self.waiting_changes += 1


class Stand:
    """An audience, and itself the room that its clients leave and expel through."""

    def __init__(self, count: int = 0, *, reads: float = float("inf"), **settings: Any) -> None:
        self.app = App(name="game", command=("cat",), cwd=Path("/"), **settings)
        self.counts = Counts()
        self.source = Source()
        self.left: list[Client] = []
        self.audience = Audience(self.app, "one", self.counts, on_left=self.left.append)
        self.audience.connect(self.source)
        self.clients = [self.add(reads=reads) for _ in range(count)]

    def add(self, *, reads: float = float("inf")) -> MemoryClient:
        client = MemoryClient(request(), reads=reads)
        client.id = ClientId(len(self.left) + len(self.audience.members) + 1)
        self.audience.add(client, self)  # type: ignore[arg-type]
        return client

    def leave(self, client: Member) -> None:
        self.audience.remove(client.id)

    def expel(self, client: Member, close: Close) -> None:
        self.audience.expel(client.id, close)

    def congested(self, client: Member) -> None:
        self.audience.congested(client.id)

    def drained(self, client: Member) -> None:
        self.audience.drained(client.id)


def alone(scene: Callable[[], None]) -> Callable[[], None]:
    """Run a test on a loop whose time passes only when it has nothing to do."""

    def test() -> None:
        async def run() -> None:
            scene()

        run_virtual(run)

    test.__name__ = scene.__name__
    return test


class Mistake(Exception):
    """What no code should ever raise."""


def fail(*_: object) -> Any:
    raise Mistake


# --- Sending


@alone
def test_a_broadcast_reaches_everyone_but_those_excluded() -> None:
    stand = Stand(3)

    stand.audience.broadcast(Batch([b"a", b"b"]), {ClientId(2)})

    assert [client.heard for client in stand.clients] == [[b"a", b"b"], [], [b"a", b"b"]]
    assert (stand.counts.messages_out, stand.counts.bytes_out) == (4, 4)


@alone
def test_send_reaches_the_named_clients_that_are_here() -> None:
    stand = Stand(3)

    stand.audience.send([ClientId(3), ClientId(9), ClientId(1)], Batch([b"a"]), {ClientId(1)})

    assert [client.heard for client in stand.clients] == [[], [], [b"a"]]


@alone
def test_each_broadcast_starts_with_another_client() -> None:
    stand = Stand(3)
    order: list[int] = []
    for client in stand.clients:
        client.send = lambda _, one=client: order.append(one.id)  # type: ignore[method-assign,misc]

    for _ in range(4):
        stand.audience.broadcast(Batch([b"a"]))

    rounds = [order[first : first + 3] for first in range(0, 12, 3)]
    assert [set(one) for one in rounds] == [{1, 2, 3}] * 4
    assert len({one[0] for one in rounds[:3]}) == len({one[-1] for one in rounds[:3]}) == 3


@alone
def test_a_broadcast_goes_on_when_clients_have_left() -> None:
    stand = Stand(3)
    for _ in range(2):
        stand.audience.broadcast(Batch([b"a"]))
    for client in stand.clients[1:]:
        stand.leave(client)

    stand.audience.broadcast(Batch([b"b"]))
    stand.leave(stand.clients[0])
    stand.audience.broadcast(Batch([b"c"]))

    assert stand.clients[0].heard == [b"a", b"a", b"b"]


@alone
def test_frames_are_encoded_once_and_written_once_for_each_client() -> None:
    stand = Stand(3)
    written: list[bytes] = []
    for client in stand.clients:
        client.write = written.append

    stand.audience.broadcast(Batch([b"a", b"b"]))

    assert written == [b"\x81\x01a\x81\x01b"] * 3
    assert len({id(frames) for frames in written}) == 1


@alone
def test_a_replay_is_allowed_for_until_the_client_has_taken_it() -> None:
    stand = Stand(1, reads=0)
    ann = stand.clients[0]

    stand.audience.replay(ann.id, [Batch([b"x" * (HIGH_WATER + 1)])])
    assert ann.allowance == HIGH_WATER + 1
    ann.take(HIGH_WATER + 1)

    assert ann.allowance == 0


# --- Containment


@alone
def test_a_client_that_fails_to_send_is_closed_and_the_others_receive() -> None:
    stand = Stand(3)
    stand.clients[1].send = fail  # type: ignore[method-assign]

    stand.audience.broadcast(Batch([b"a"]))

    assert [client.heard for client in stand.clients] == [[b"a"], [], [b"a"]]
    assert stand.clients[1].closed == INTERNAL_ERROR
    assert stand.left == [stand.clients[1]]
    assert stand.counts.messages_out == 2


@alone
def test_a_client_that_fails_to_close_is_cut() -> None:
    stand = Stand(3)
    stand.clients[1].close = fail  # type: ignore[method-assign]

    stand.audience.expel_all(BACKEND_ENDED)

    assert [client.closed for client in stand.clients] == [BACKEND_ENDED, None, BACKEND_ENDED]
    assert stand.clients[1].was_aborted
    assert not stand.audience.members


@alone
def test_a_client_that_left_because_another_failed_is_not_sent_the_history() -> None:
    stand = Stand(2)
    ann, bob = stand.clients

    def fail_and_take_bob(_: Batch) -> None:
        stand.leave(bob)
        raise Mistake

    ann.send = fail_and_take_bob  # type: ignore[method-assign]
    stand.audience.replay_to_all([Batch([b"a"])])

    assert ann.closed == INTERNAL_ERROR
    assert bob.closed is None
    assert bob.heard == []


@alone
def test_a_client_that_cannot_be_held_is_not_added() -> None:
    stand = Stand(1)
    stand.audience.hold()
    bad = MemoryClient(request())
    bad.id, bad.pause_reading = ClientId(7), fail  # type: ignore[method-assign]

    with pytest.raises(Mistake):
        stand.audience.add(bad, stand)  # type: ignore[arg-type]

    assert list(stand.audience.members) == [1]
    assert stand.left == []


# --- Backpressure


@alone
def test_clients_that_join_while_all_are_held_are_held_too() -> None:
    stand = Stand(1)
    stand.audience.hold()
    late = stand.add()
    assert late.held == Hold.BACKEND

    stand.audience.release()

    assert [client.held for client in (*stand.clients, late)] == [Hold(0), Hold(0)]


@alone
def test_an_audience_is_congested_when_all_its_clients_are() -> None:
    stand = Stand(2, reads=0)
    ann, bob = stand.clients
    full = Batch([b"x" * (HIGH_WATER + 1)])
    assert not Stand().audience.is_congested

    stand.audience.send([ann.id], full)
    assert not stand.audience.is_congested
    stand.audience.send([bob.id], full)
    assert stand.audience.is_congested
    stand.leave(ann)
    assert stand.audience.is_congested
    bob.take(HIGH_WATER)

    assert not stand.audience.is_congested


SEND_BUFFER = 1024 * 1024
BATCH = Batch([b"x" * (SEND_BUFFER // 2)])


def test_drop_leaves_messages_out_and_block_and_close_wait() -> None:
    async def scene() -> None:
        for slow_client, heard, is_waiting in (("drop", 3, False), ("block", 4, True), ("close", 4, True)):
            stand = Stand(1, reads=0, slow_client=slow_client, send_buffer=SEND_BUFFER)
            for _ in range(4):
                stand.audience.broadcast(BATCH)

            assert len(stand.clients[0].heard) == heard
            assert stand.audience.is_waiting is is_waiting
            assert stand.counts.slow_dropped == 4 - heard
            stand.audience.stop_waiting()

    run_virtual(scene)


@pytest.mark.parametrize(("slow_client", "seconds"), [("block", 30.0), ("close", 0.24)])
def test_a_client_that_takes_nothing_is_closed_after_its_time(slow_client: str, seconds: float) -> None:
    async def scene() -> None:
        stand = Stand(1, reads=0, slow_client=slow_client, send_buffer=SEND_BUFFER, stall_timeout=30.0)
        stand.add()
        for _ in range(3):
            stand.audience.broadcast(BATCH)
        began = asyncio.get_running_loop().time()

        while stand.audience.is_waiting:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)

        assert seconds <= asyncio.get_running_loop().time() - began <= seconds + 0.06
        assert stand.clients[0].closed == TOO_SLOW
        assert stand.counts.slow_clients == 1
        assert stand.source.waiting_changes == 2

    run_virtual(scene)


def test_a_client_that_catches_up_is_waited_for_no_more() -> None:
    async def scene() -> None:
        stand = Stand(1, reads=0, slow_client="block", send_buffer=SEND_BUFFER)
        for _ in range(3):
            stand.audience.broadcast(BATCH)
        stand.clients[0].take(SEND_BUFFER)

        await asyncio.sleep(0.1)

        assert not stand.audience.is_waiting
        assert stand.clients[0].closed is None

    run_virtual(scene)


# --- Keepalive, in slices


@alone
def test_clients_are_checked_in_slices_and_those_that_left_are_skipped() -> None:
    stand = Stand(2 * CLIENTS_PER_SLICE, ping_interval=1.0)
    now = asyncio.get_running_loop().time() + 2.0
    checks = stand.audience.check_keepalives(lambda: now)

    next(checks)
    assert [client.pings for client in stand.clients] == [1] * CLIENTS_PER_SLICE + [0] * CLIENTS_PER_SLICE
    stand.leave(stand.clients[-1])
    assert list(checks) == []

    assert [client.pings for client in stand.clients] == [1] * (2 * CLIENTS_PER_SLICE - 1) + [0]


@alone
def test_a_client_whose_check_fails_is_closed_and_the_others_are_checked() -> None:
    stand = Stand(3, ping_interval=1.0)
    stand.clients[1].ping = fail  # type: ignore[method-assign]
    now = asyncio.get_running_loop().time() + 2.0

    assert list(stand.audience.check_keepalives(lambda: now)) == []

    assert [client.pings for client in stand.clients] == [1, 0, 1]
    assert stand.clients[1].closed == INTERNAL_ERROR
