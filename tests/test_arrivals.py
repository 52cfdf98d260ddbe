"""How often clients may come, by address: a token bucket for each block of addresses, in a table that is bounded."""

from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalesocket import arrivals
from scalesocket.arrivals import MAX_BLOCKS, Arrivals, Peer
from scalesocket.config.model import ConnectRate

ANN: Peer = ("192.0.2.1", 1)
BOB: Peer = ("192.0.2.2", 1)
RATE = ConnectRate(per_ip=20, burst=50)

RATES = st.builds(
    ConnectRate, per_ip=st.sampled_from([0.25, 0.5, 1.0, 3.0, 7.0, 20.0, 1000.0]), burst=st.none() | st.integers(1, 12)
)
VISITS = st.lists(st.tuples(st.integers(0, 3000), st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"])), max_size=80)
"""Milliseconds since the last visit, and who comes."""


def took(arrivals: Arrivals, peer: Peer, now: float, rate: ConnectRate = RATE) -> bool:
    return arrivals.take(peer, rate, now) == 0.0


@settings(deadline=None)
@given(RATES, VISITS)
def test_a_bucket_is_one_of_textbooks(rate: ConnectRate, visits: list[tuple[int, str]]) -> None:
    """Exact arithmetic decides the same, but where a token is complete at that very moment."""
    measured, at = Arrivals(), Fraction(1_000_000)
    buckets: dict[str, tuple[Fraction, Fraction]] = defaultdict(lambda: (Fraction(rate.size), at))
    for pause, address in visits:
        at += Fraction(pause, 1000)
        tokens, since = buckets[address]
        tokens = min(Fraction(rate.size), tokens + (at - since) * Fraction(rate.per_ip))
        wait = measured.take((address, 1), rate, float(at))
        if abs(tokens - 1) > Fraction(1, 1_000_000):
            assert (wait == 0.0) == (tokens > 1)
        if wait:
            assert wait == pytest.approx(float(max(Fraction(0), 1 - tokens) / Fraction(rate.per_ip)), abs=1e-6)
        buckets[address] = (tokens if wait else tokens - 1, at)


@settings(deadline=None)
@given(RATES, VISITS)
def test_no_span_of_time_lets_in_more_than_a_burst_and_the_rate(rate: ConnectRate, visits: list[tuple[int, str]]) -> None:
    measured, now, admitted = Arrivals(), 0.0, defaultdict[str, list[float]](list)
    for pause, address in visits:
        now += pause / 1000
        if took(measured, (address, 1), now, rate):
            admitted[address].append(now)

    for times in admitted.values():
        for first, since in enumerate(times):
            for last in range(first, len(times)):
                assert last - first + 1 <= rate.size + (times[last] - since) * rate.per_ip + 1e-6


@settings(deadline=None)
@given(RATES, st.integers(1, 200))
def test_who_waits_as_told_gets_in(rate: ConnectRate, tries: int) -> None:
    measured, now = Arrivals(), 0.0
    for _ in range(tries):
        wait = measured.take(ANN, rate, now)
        if wait:
            assert not took(measured, ANN, now + wait * 0.99, rate)
            now += wait + 1e-9
            assert took(measured, ANN, now, rate)


def test_a_burst_is_taken_at_once_and_the_rest_at_the_rate() -> None:
    measured = Arrivals()

    assert [took(measured, ANN, 5.0) for _ in range(51)] == [True] * 50 + [False]
    assert [took(measured, ANN, 5.125) for _ in range(3)] == [True, True, False]
    assert took(measured, BOB, 5.125)


@pytest.mark.parametrize(("per_ip", "size"), [(0.5, 1), (1, 1), (3, 3)])
def test_a_burst_is_one_seconds_where_none_is_given_and_at_least_one(per_ip: float, size: int) -> None:
    measured, rate = Arrivals(), ConnectRate(per_ip=per_ip)

    assert [took(measured, ANN, 5.0, rate) for _ in range(size + 1)] == [True] * size + [False]


def test_ipv6_counts_by_its_64_and_a_mapped_address_as_ipv4() -> None:
    measured, rate = Arrivals(), ConnectRate(per_ip=0.1)
    peers = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1"]

    assert [took(measured, (peer, 1), 5.0, rate) for peer in peers] == [True, False, True, True, False]


def test_a_client_on_a_unix_socket_is_not_limited() -> None:
    measured = Arrivals()

    assert all(took(measured, None, 5.0, ConnectRate(per_ip=0.1)) for _ in range(10))


def test_a_new_rate_holds_at_once() -> None:
    measured = Arrivals()
    for _ in range(50):
        measured.take(ANN, RATE, 5.0)

    assert not took(measured, ANN, 5.0)
    assert took(measured, ANN, 5.1, ConnectRate(per_ip=20, burst=1))
    assert not took(measured, ANN, 5.1, ConnectRate(per_ip=20, burst=100))


# --- Memory


def test_full_buckets_are_dropped_while_clients_come() -> None:
    measured, rate = Arrivals(), ConnectRate(per_ip=10, burst=2)

    for number in range(10_000):
        assert took(measured, (f"10.0.{number >> 8}.{number & 255}", 1), number / 1000, rate)

    assert len(measured._buckets) <= 101  # those of the last tenth of a second


def test_full_buckets_are_dropped_when_nobody_comes() -> None:
    measured = Arrivals()
    for number in range(3000):
        measured.take((f"10.0.{number >> 8}.{number & 255}", 1), RATE, 5.0)

    measured.sweep(RATE, 5.01)
    assert len(measured._buckets) == 3000
    for _ in range(3):
        measured.sweep(RATE, 6.0)
    assert not measured._buckets


def test_without_a_rate_nothing_is_kept() -> None:
    measured = Arrivals()
    measured.take(ANN, RATE, 5.0)

    measured.sweep(None, 5.0)

    assert not measured._buckets


def test_the_table_has_a_hard_limit_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_BLOCKS", 3)
    measured, rate = Arrivals(), ConnectRate(per_ip=0.001, burst=1)
    peers = [(f"2001:db8:0:{number}::1", 1) for number in range(5)]

    assert all(took(measured, peer, 5.0, rate) for peer in peers)

    assert len(measured._buckets) == 3
    assert [took(measured, peer, 5.0, rate) for peer in reversed(peers)] == [False, False, False, True, True]
    assert MAX_BLOCKS <= 65_536


# --- Websockets at a time


def test_websockets_are_counted_by_block() -> None:
    here = Arrivals()

    for host in (1, 2):
        here.join((f"2001:db8::{host}", host))
    here.join(None)

    assert here.is_full(("2001:db8::3", 3), 2)
    assert not here.is_full(("2001:db8:0:1::3", 3), 1)
    assert not here.is_full(None, 1)
    here.leave(("2001:db8::2", 2))
    assert not here.is_full(("2001:db8::3", 3), 2)
    here.leave(("2001:db8::1", 1))
    assert not here._open
