"""Keepalive of one connection, alone: pings, pongs and the idle timeout."""

from pathlib import Path
from typing import Any

import pytest

from scalesocket.config.model import App
from scalesocket.edge.client import Hold
from scalesocket.edge.keepalive import JITTER, check_keepalive
from scalesocket.errors import CLIENT_IDLE, PONG_MISSING
from scalesocket.wire.batch import ClientId
from tests.rooms.memory import MemoryClient, request


def app(**settings: Any) -> App:
    return App(name="game", command=("cat",), cwd=Path("/"), **{"ping_interval": 10.0, "ping_timeout": 4.0, **settings})


def joined_at(now: float, number: int = 1) -> MemoryClient:
    client = MemoryClient(request(), now=now)
    client.id = ClientId(number)
    return client


def check_until(client: MemoryClient, settings: App, start: float, end: float, step: float = 0.25) -> Any:
    """Check every `step` seconds; return the first close and its time, or None."""
    now = start
    while now <= end:
        close = check_keepalive(client, settings, now)
        if close is not None:
            return close, now
        now += step
    return None


def test_a_client_is_pinged_within_ping_interval_and_not_before_the_jitter_allows() -> None:
    for number in range(1, 50):
        client = joined_at(0.0, number)
        assert check_until(client, app(), 0.0, 10 * (1 - JITTER) - 0.01) is None
        assert client.pings == 0

        check_keepalive(client, app(), 10.0)

        assert client.pings == 1


def test_pings_of_many_clients_are_spread() -> None:
    clients = [joined_at(0.0, number) for number in range(1, 101)]
    for client in clients:
        check_until(client, app(), 8.0, 10.0, step=0.1)

    early = sum(client.last_ping_at < 9.0 for client in clients)

    assert 40 <= early <= 60


def test_what_a_peer_sends_delays_its_ping() -> None:
    client = joined_at(0.0)
    client.last_received_at = 9.0

    check_keepalive(client, app(), 12.0)

    assert client.pings == 0


def test_a_peer_that_answers_no_ping_is_closed_after_ping_timeout() -> None:
    client = joined_at(0.0)
    check_keepalive(client, app(), 10.0)

    assert check_until(client, app(), 10.0, 20.0) == (PONG_MISSING, 14.0)


def test_any_byte_after_the_ping_counts_as_an_answer() -> None:
    client = joined_at(0.0)
    check_keepalive(client, app(), 10.0)
    client.last_received_at = 11.0

    assert check_until(client, app(), 11.0, 18.0) is None


@pytest.mark.parametrize("why", ["the peer is not read", "the ping has not left"])
def test_an_excused_peer_has_ping_timeout_from_the_end_of_the_excuse(why: str) -> None:
    client = joined_at(0.0)
    check_keepalive(client, app(), 10.0)
    if why == "the peer is not read":
        client.held = Hold.BACKEND
    else:
        client._unsent = 1

    assert check_until(client, app(), 10.0, 30.0) is None
    client.held, client._unsent = Hold(0), 0

    close, at = check_until(client, app(), 30.25, 40.0)
    assert close == PONG_MISSING
    assert 34.0 <= at <= 34.25


def test_an_excused_peer_is_pinged_on_so_that_a_vanished_one_is_noticed() -> None:
    client = joined_at(0.0)
    client.held = Hold.BACKEND

    check_until(client, app(), 0.0, 50.0)

    assert client.pings >= 4


def test_a_client_that_sends_no_message_is_closed_after_client_idle_timeout() -> None:
    client = joined_at(0.0)
    client.last_message_at = 1.0
    client.last_received_at = 5.0  # a pong is no message

    assert check_until(client, app(client_idle_timeout=6.0), 1.0, 20.0) == (CLIENT_IDLE, 7.0)


def test_a_client_that_is_not_read_is_not_idle() -> None:
    client = joined_at(0.0)
    client.held = Hold.RATE

    assert check_until(client, app(client_idle_timeout=6.0), 0.0, 60.0) is None
