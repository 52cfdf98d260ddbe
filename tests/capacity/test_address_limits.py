"""Limits for each address: the rate of upgrades by token buckets in a bounded table, and the number of websockets."""

from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalesocket import token_buckets
from scalesocket.capacity.address_limits import AddressLimits
from scalesocket.config.model import ConnectRate
from scalesocket.token_buckets import MAX_BLOCKS, Peer

ANN: Peer = ("192.0.2.1", 1)
BOB: Peer = ("192.0.2.2", 1)
RATE = ConnectRate(per_ip=20, burst=50)

RATES = st.builds(
    ConnectRate, per_ip=st.sampled_from([0.25, 0.5, 1.0, 3.0, 7.0, 20.0, 1000.0]), burst=st.none() | st.integers(1, 12)
)
UPGRADES = st.lists(st.tuples(st.integers(0, 3000), st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"])), max_size=80)
"""Upgrades: milliseconds since the last one, and the address."""


def takes(limits: AddressLimits, peer: Peer, now: float, rate: ConnectRate = RATE) -> bool:
    return limits.take_token(peer, rate, now) == 0.0


@settings(deadline=None)
@given(RATES, UPGRADES)
def test_a_bucket_decides_like_the_token_bucket_of_textbooks(rate: ConnectRate, upgrades: list[tuple[int, str]]) -> None:
    """Compared with exact arithmetic, except where a token is complete at that very moment."""
    limits, at = AddressLimits(), Fraction(1_000_000)
    buckets: dict[str, tuple[Fraction, Fraction]] = defaultdict(lambda: (Fraction(rate.size), at))
    for pause, address in upgrades:
        at += Fraction(pause, 1000)
        tokens, since = buckets[address]
        tokens = min(Fraction(rate.size), tokens + (at - since) * Fraction(rate.per_ip))
        wait = limits.take_token((address, 1), rate, float(at))
        if abs(tokens - 1) > Fraction(1, 1_000_000):
            assert (wait == 0.0) == (tokens > 1)
        if wait:
            assert wait == pytest.approx(float(max(Fraction(0), 1 - tokens) / Fraction(rate.per_ip)), abs=1e-6)
        buckets[address] = (tokens if wait else tokens - 1, at)


@settings(deadline=None)
@given(RATES, UPGRADES)
def test_no_period_admits_more_than_a_burst_and_the_rate(rate: ConnectRate, upgrades: list[tuple[int, str]]) -> None:
    limits, now, admitted = AddressLimits(), 0.0, defaultdict[str, list[float]](list)
    for pause, address in upgrades:
        now += pause / 1000
        if takes(limits, (address, 1), now, rate):
            admitted[address].append(now)

    for times in admitted.values():
        for first, since in enumerate(times):
            for last in range(first, len(times)):
                assert last - first + 1 <= rate.size + (times[last] - since) * rate.per_ip + 1e-6


@settings(deadline=None)
@given(RATES, st.integers(1, 200))
def test_an_upgrade_after_the_returned_wait_is_admitted(rate: ConnectRate, tries: int) -> None:
    limits, now = AddressLimits(), 0.0
    for _ in range(tries):
        wait = limits.take_token(ANN, rate, now)
        if wait:
            assert not takes(limits, ANN, now + wait * 0.99, rate)
            now += wait + 1e-9
            assert takes(limits, ANN, now, rate)


def test_a_burst_is_admitted_at_once_and_the_rest_at_the_rate() -> None:
    limits = AddressLimits()

    assert [takes(limits, ANN, 5.0) for _ in range(51)] == [True] * 50 + [False]
    assert [takes(limits, ANN, 5.125) for _ in range(3)] == [True, True, False]
    assert takes(limits, BOB, 5.125)


@pytest.mark.parametrize(("per_ip", "size"), [(0.5, 1), (1, 1), (3, 3)])
def test_the_default_burst_is_that_of_one_second_and_at_least_one(per_ip: float, size: int) -> None:
    limits, rate = AddressLimits(), ConnectRate(per_ip=per_ip)

    assert [takes(limits, ANN, 5.0, rate) for _ in range(size + 1)] == [True] * size + [False]


def test_ipv6_addresses_count_by_their_64_and_mapped_ones_as_ipv4() -> None:
    limits, rate = AddressLimits(), ConnectRate(per_ip=0.1)
    peers = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1"]

    assert [takes(limits, (peer, 1), 5.0, rate) for peer in peers] == [True, False, True, True, False]


def test_a_client_on_a_unix_socket_is_not_limited() -> None:
    limits = AddressLimits()

    assert all(takes(limits, None, 5.0, ConnectRate(per_ip=0.1)) for _ in range(10))


def test_a_new_rate_applies_at_once() -> None:
    limits = AddressLimits()
    for _ in range(50):
        limits.take_token(ANN, RATE, 5.0)

    assert not takes(limits, ANN, 5.0)
    assert takes(limits, ANN, 5.1, ConnectRate(per_ip=20, burst=1))
    assert not takes(limits, ANN, 5.1, ConnectRate(per_ip=20, burst=100))


# --- Memory


def test_full_buckets_are_dropped_while_clients_connect() -> None:
    limits, rate = AddressLimits(), ConnectRate(per_ip=10, burst=2)

    for number in range(10_000):
        assert takes(limits, (f"10.0.{number >> 8}.{number & 255}", 1), number / 1000, rate)

    assert len(limits._buckets) <= 101  # those of the last tenth of a second


def test_full_buckets_are_dropped_while_no_client_connects() -> None:
    limits = AddressLimits()
    for number in range(3000):
        limits.take_token((f"10.0.{number >> 8}.{number & 255}", 1), RATE, 5.0)

    limits.sweep(None, RATE, 5.01)
    assert len(limits._buckets) == 3000
    for _ in range(3):
        limits.sweep(None, RATE, 6.0)
    assert not limits._buckets


def test_without_a_rate_all_buckets_are_dropped() -> None:
    limits = AddressLimits()
    limits.take_token(ANN, RATE, 5.0)

    limits.sweep(None, None, 5.0)

    assert not limits._buckets


def test_the_table_is_bounded_and_drops_the_least_recent_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_buckets, "MAX_BLOCKS", 3)
    limits, rate = AddressLimits(), ConnectRate(per_ip=0.001, burst=1)
    peers = [(f"2001:db8:0:{number}::1", 1) for number in range(5)]

    assert all(takes(limits, peer, 5.0, rate) for peer in peers)

    assert len(limits._buckets) == 3
    assert [takes(limits, peer, 5.0, rate) for peer in reversed(peers)] == [False, False, False, True, True]
    assert MAX_BLOCKS <= 65_536


# --- Open websockets


def test_open_websockets_are_counted_by_block() -> None:
    limits = AddressLimits()

    for host in (1, 2):
        assert limits.take((f"2001:db8::{host}", host), None)
    assert limits.take(None, None)

    assert limits.is_full(("2001:db8::3", 3), 2)
    assert not limits.is_full(("2001:db8:0:1::3", 3), 1)
    assert not limits.is_full(None, 1)
    limits.release(("2001:db8::2", 2))
    assert not limits.is_full(("2001:db8::3", 3), 2)
    limits.release(("2001:db8::1", 1))
    assert not limits._open
