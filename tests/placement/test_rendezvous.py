"""Which worker owns a room."""

from collections import Counter

import pytest

from scalesocket.placement.rendezvous import Rendezvous

KEY = bytes(32)


def test_every_process_finds_the_same_owner() -> None:
    one, other = Rendezvous(5, KEY), Rendezvous(5, KEY)

    assert [one.owner_of("chat", str(room)) for room in range(100)] == [other.owner_of("chat", str(room)) for room in range(100)]


def test_rooms_are_spread_evenly() -> None:
    owners = Counter(Rendezvous(4, KEY).owner_of("chat", f"room-{number}") for number in range(4000))

    assert sorted(owners) == [0, 1, 2, 3]
    assert min(owners.values()) > 850


def test_rooms_of_one_name_in_two_apps_are_two_rooms() -> None:
    rendezvous = Rendezvous(64, KEY)

    assert len({(rendezvous.owner_of(f"app{number}", "lobby")) for number in range(64)}) > 20
    assert [rendezvous.owner_of("a", f"b{number}") for number in range(8)] != [
        rendezvous.owner_of("ab", str(number)) for number in range(8)
    ]


def test_another_key_gives_other_owners() -> None:
    one, other = Rendezvous(16, KEY), Rendezvous(16, b"\x01" * 32)

    assert [one.owner_of("chat", str(room)) for room in range(50)] != [other.owner_of("chat", str(room)) for room in range(50)]


def test_one_worker_more_moves_few_rooms() -> None:
    four, five = Rendezvous(4, KEY), Rendezvous(5, KEY)
    rooms = [f"room-{number}" for number in range(2000)]

    moved = [room for room in rooms if four.owner_of("chat", room) != five.owner_of("chat", room)]

    assert all(five.owner_of("chat", room) == 4 for room in moved)
    assert 300 < len(moved) < 500


def test_a_server_without_workers_is_an_error() -> None:
    with pytest.raises(ValueError, match="worker"):
        Rendezvous(0, KEY)
