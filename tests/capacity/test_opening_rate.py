"""The buckets of `room_rate`: one for each address and one for the app, of which a room takes both or neither."""

from scalesocket.capacity.opening_rate import OpeningRate
from scalesocket.config.model import RoomRate
from scalesocket.token_buckets import Peer

ANN: Peer = ("192.0.2.1", 1)
BOB: Peer = ("192.0.2.2", 1)


def test_tokens_return_at_the_rate() -> None:
    opening, rate = OpeningRate(), RoomRate(per_ip=2, total=4, burst=3)

    assert [opening.take(ANN, rate, 5.0) for _ in range(4)] == [True, True, True, False]
    assert [opening.take(ANN, rate, 5.5) for _ in range(2)] == [True, False]


def test_a_room_that_the_address_may_not_open_takes_nothing_from_the_app() -> None:
    opening, rate = OpeningRate(), RoomRate(per_ip=0.01, total=2)
    assert opening.take(ANN, rate, 5.0)
    for _ in range(10):
        assert not opening.take(ANN, rate, 5.0)

    assert opening.take(BOB, rate, 5.0)


def test_a_room_that_the_app_may_not_open_takes_nothing_from_the_address() -> None:
    opening, rate = OpeningRate(), RoomRate(per_ip=0.01, total=1)
    assert opening.take(ANN, rate, 5.0)
    for _ in range(10):
        assert not opening.take(BOB, rate, 5.0)

    assert opening.take(BOB, rate, 6.0)


def test_the_app_may_always_open_the_rooms_of_one_second_at_once() -> None:
    opening, rate = OpeningRate(), RoomRate(per_ip=1, total=5, burst=2)

    assert [opening.take((f"192.0.2.{number}", 1), rate, 5.0) for number in range(6)] == [True] * 5 + [False]


def test_a_client_without_an_address_is_limited_by_the_app_alone() -> None:
    opening = OpeningRate()

    assert all(opening.take(None, RoomRate(per_ip=0.01), 5.0) for _ in range(10))
    assert [opening.take(None, RoomRate(total=1), 5.0) for _ in range(2)] == [True, False]


def test_full_buckets_are_forgotten_and_all_without_a_rate() -> None:
    opening, rate = OpeningRate(), RoomRate(per_ip=1)
    opening.take(ANN, rate, 5.0)

    opening.sweep(rate, 5.1)
    assert len(opening._addresses) == 1
    opening.sweep(rate, 6.0)
    assert len(opening._addresses) == 0
    opening.take(ANN, rate, 6.0)
    opening.sweep(RoomRate(total=1), 6.0)
    assert len(opening._addresses) == 0
