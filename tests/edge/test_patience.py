"""How long a room waits for a client that reads too slowly (`slow_client = "close"`)."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.edge.patience import LIMIT, SLOT, STALLED, STUCK, WINDOW, Patience
from tests.rooms.memory import MemoryClient, Stage, play

KiB = 1024
READ = b"x" * (64 * KiB - 1) + b"\n"
SEND_BUFFER = 1024 * KiB


async def take_steadily(client: MemoryClient, rate: float, seconds: float) -> None:
    """Take `rate` bytes a second, in small pieces."""
    for _ in range(round(seconds * 1000)):
        client.take(round(rate / 1000))
        await asyncio.sleep(0.001)


def read_of(stage: Stage) -> int:
    """Bytes of the first backend that were read."""
    return stage.backends[0].output[0]


# --- The rule


def test_a_client_a_little_slower_than_the_others_is_waited_for() -> None:
    async def scene(stage: Stage) -> None:
        ann, bob = await stage.joined(), await stage.joined(reads=0)

        await take_steadily(bob, 62e6, 10.0)  # the backend prints 65 MB a second

        assert bob.closed is None
        assert len(ann.heard) - 1 <= len(bob.heard)  # the first was printed before bob came
        assert len(bob.heard) > 9_000

    play(scene, floods=READ)


def test_a_client_that_takes_nothing_costs_the_others_250_ms_once() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined()
        dead = await stage.joined(reads=0)
        began = asyncio.get_running_loop().time()
        longest, last_at, last = 0.0, began, 0

        while asyncio.get_running_loop().time() < began + 5.0:
            await asyncio.sleep(0.001)
            if read_of(stage) != last:
                longest = max(longest, asyncio.get_running_loop().time() - last_at)
                last, last_at = read_of(stage), asyncio.get_running_loop().time()

        assert dead.closed is not None
        assert dead.closed.code == 1013
        assert 0.2 < longest <= 0.25
        assert read_of(stage) >= 4.7 * 1000 * len(READ)

    play(scene, floods=READ)


def test_a_client_that_trickles_costs_the_others_a_second() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined()
        slow = await stage.joined(reads=0)

        await take_steadily(slow, 100e3, 10.0)

        assert slow.closed is not None
        assert read_of(stage) >= (10.0 - LIMIT - 0.1) * 1000 * len(READ)

    play(scene, floods=READ)


def test_clients_that_reconnect_get_no_new_patience() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined()

        for _ in range(100):
            dead = [await stage.joined(reads=0) for _ in range(5)]
            await asyncio.sleep(0.095)
            for client in dead:
                stage.room().leave(client)

        assert read_of(stage) >= (10.0 - LIMIT - 5 * SLOT) * 1000 * len(READ)

    play(scene, floods=READ)


def test_clients_that_were_there_before_keep_their_patience() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined()
        bob = await stage.joined()
        for _ in range(30):
            dead = await stage.joined(reads=0)
            await asyncio.sleep(0.1)
            stage.room().leave(dead)
        bob._reads = 0

        await take_steadily(bob, 1e6, 0.5)

        assert bob.closed is None

    play(scene, floods=READ)


def test_a_client_alone_that_trickles_is_waited_for() -> None:
    async def scene(stage: Stage) -> None:
        alone = await stage.joined(reads=0)

        await take_steadily(alone, 100e3, 60.0)

        assert alone.closed is None

    play(scene, floods=READ)


def test_a_client_alone_that_takes_nothing_is_closed() -> None:
    async def scene(stage: Stage) -> None:
        dead = await stage.joined(reads=0)

        await asyncio.sleep(5.0)

        assert dead.closed is not None

    play(scene, floods=READ)


def test_a_wait_in_which_the_backend_has_no_output_is_not_charged() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined()
        slow = await stage.joined(reads=0)
        for _ in range(20):
            stage.backends[0].say(READ)

        await asyncio.sleep(5.0)  # nothing more is said, and nothing is taken

        assert slow.closed is None

    play(scene)


def test_unsent_bytes_are_bounded_by_send_buffer_and_one_read() -> None:
    async def scene(stage: Stage) -> None:
        ann, bob = await stage.joined(), await stage.joined(reads=0)
        most = 0
        for _ in range(2000):
            bob.take(40_000)
            await asyncio.sleep(0.001)
            most = max(most, bob.unsent)

        assert bob.closed is None
        assert len(ann.heard) - 1 <= len(bob.heard)
        assert SEND_BUFFER < most <= SEND_BUFFER + len(READ)

    # 40 MB a second of 65: too slow after a while, but not yet.
    play(scene, floods=READ, slow_client="block")


def test_a_client_that_leaves_is_waited_for_no_more() -> None:
    async def scene(stage: Stage) -> None:
        await stage.joined()
        dead = await stage.joined(reads=0)
        while stage.backends[0].is_read:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)

        stage.room().leave(dead)

        assert stage.backends[0].is_read

    play(scene, floods=READ)


# --- The account


def spend(patience: Patience, seconds: float, now: float, backlog: int, *, is_delaying: bool = True) -> None:
    patience.spend(seconds, now, backlog, is_delaying=is_delaying)


def test_progress_forgives_a_stall_but_not_the_time_that_was_spent() -> None:
    patience = Patience()
    patience.begin(1000)
    spend(patience, STALLED - 0.01, 1.0, 1000)
    assert patience.left(1.0) == pytest.approx(0.01)

    spend(patience, 0.01, 1.01, 999)

    assert patience.left(1.01) == pytest.approx(STALLED - 0.01)
    for step in range(8):
        spend(patience, 0.1, 1.2 + step / 10, 998 - step)
    assert patience.left(2.0) == 0.0


def test_a_client_that_delays_no_other_only_has_to_take_something() -> None:
    patience = Patience()
    patience.begin(1000)
    for step in range(100):
        spend(patience, 0.5, float(step), 999 - step, is_delaying=False)
    assert patience.left(100.0) == STALLED

    spend(patience, STUCK, 101.0, 900, is_delaying=False)

    assert patience.left(101.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.001, 1.5), st.floats(0.001, 0.05)), max_size=300))
def test_no_window_holds_more_than_the_limit(steps: list[tuple[float, float]]) -> None:
    patience, now, backlog = Patience(), 0.0, 10_000
    spent: list[tuple[float, float]] = []
    for idle, wanted in steps:
        now += idle
        seconds = min(wanted, patience.left(now))
        if seconds <= 0.0:
            continue
        now += seconds
        backlog -= 1
        spend(patience, seconds, now, backlog)
        spent.append((now, seconds))

        recently = sum(size for at, size in spent if at > now - WINDOW)
        assert recently <= LIMIT + 1e-6
    patience.begin(0)
    assert patience.left(now + WINDOW + 2 * SLOT) == STALLED


def test_a_delayed_client_of_a_large_room_is_found_among_many_that_are_not() -> None:
    async def scene(stage: Stage) -> None:
        behind = [await stage.joined(reads=0) for _ in range(100)]  # a little unsent, and nobody is waited for
        await stage.joined()
        dead = await stage.joined(reads=0)
        for client in behind:
            client._reads = float("inf")
            client._unsent = 1

        await asyncio.sleep(2.0)

        assert dead.closed is not None

    play(scene, floods=READ)


def test_delays_at_the_same_time_are_taken_over_once() -> None:
    one, other, heir = Patience(), Patience(), Patience()
    for at in (1.0, 2.0):
        spend(one, 0.2, at, 0)
        spend(other, 0.2, at, 0)

    heir.take_over(one)
    heir.take_over(other)
    heir.begin(0)

    spend(heir, 0.2, 3.0, 0)
    spend(heir, 0.3, 4.0, 0)
    assert heir.left(4.0) == 0.0
    heir.begin(0)
    assert heir.left(4.0) == pytest.approx(LIMIT - 0.9)
