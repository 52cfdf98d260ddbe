"""Nodes that differ: in their site files, their secrets, their clocks and the kinds of their addresses."""

import sys
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from scalesocket.rooms.sweep import LONGEST_SLEEP
from tests.auth.tokens import SECRET, bearer, token
from tests.cli.serving import DEADLINE
from tests.node.serving import Cluster, Node, open_cluster

VAULT: Final = """
[apps.vault]
command = ["sh", "-c", "echo $NODE; exec cat"]
env = {{ NODE = "{node}" }}
auth = {{ jwt = {{ secret = "{secret}", algorithms = "HS256" }} }}
"""
LEAST: Final = 'placement = "least"'
OTHER: Final = '[apps.other]\ncommand = ["cat"]\nhistory = { size = 1 }'
SHIFTED: Final = (
    "import sys, time\n"
    "now, now_ns = time.time, time.time_ns\n"
    "time.time, time.time_ns = lambda: now() + {seconds}, lambda: now_ns() + {seconds} * 10**9\n"
    "from scalesocket.cli.main import main\n"
    "main(sys.argv[4:])"
)
"""A program that serves with a wrong clock. `serving` appends `python -m scalesocket` and the words."""


def vault(node: str) -> str:
    return VAULT.format(node=node, secret=SECRET)


def with_clock(*, hours: int) -> tuple[str, ...]:
    return sys.executable, "-c", SHIFTED.format(seconds=3600 * hours)


class Unlike(NamedTuple):
    """Three nodes of one cluster."""

    cluster: Cluster
    early: Node
    """Its clock is an hour behind, and other nodes reach it at an IPv6 address. It alone has the app `other`."""
    late: Node
    """Its clock is an hour ahead, and other nodes know it by a name."""
    stranger: Node
    """It has another secret."""


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unlike]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        early = cluster.start("early", more=LEAST, app=vault("early") + OTHER, host="[::1]", wrapper=with_clock(hours=-1))
        named = f'{LEAST}\nadvertise = "localhost:PORT"'
        late = cluster.start("late", more=named, app=vault("late"), host="0.0.0.0", wrapper=with_clock(hours=1))
        yield Unlike(cluster, early, late, cluster.start("stranger", secret="not the secret of the others"))


def test_clients_meet_and_rooms_move_between_nodes_whose_clocks_and_addresses_differ(unlike: Unlike) -> None:
    fences = []
    for first, second in ((unlike.early, unlike.late), (unlike.late, unlike.early)):
        rooms = [f"{first.name}{number}" for number in range(4)]  # on either node: the less busy one
        for room in rooms:
            client, other = unlike.cluster.join(first, room), unlike.cluster.join(second, room)
            opened = client.read_opened()
            assert opened == other.read_opened()
            fences.append(opened[0])
            other.send("hello")
            assert client.read() == "hello"
    assert fences == sorted(fences)
    for node in (unlike.early, unlike.late):
        assert "lease lost" not in node.server.output
        assert "engine unavailable" not in node.server.output


def test_a_credential_expires_by_the_clock_of_the_node_that_the_client_connects_to(unlike: Unlike) -> None:
    headers = bearer(token(ttl=60 - 3600))
    client, began = None, time.monotonic()
    while client is None or client.read() != "late":
        assert time.monotonic() < began + DEADLINE, "all rooms open on one node"
        client = unlike.cluster.join(unlike.early, f"room{time.monotonic_ns()}", app="vault", additional_headers=headers)

    with pytest.raises(TimeoutError):
        client.connection.recv(timeout=1.5 * LONGEST_SLEEP)
    client.send("still here")
    assert client.read() == "still here"


def test_a_room_opens_here_if_the_less_busy_node_has_no_such_app(unlike: Unlike) -> None:
    for number in range(3):
        unlike.cluster.join(unlike.early, f"busy{number}").read_opened()
    started = time.monotonic()

    rooms = [unlike.cluster.join(unlike.early, f"room{number}", app="other") for number in range(4)]
    for client in rooms:
        client.send("hello")

    assert [client.read() for client in rooms] == ["hello"] * 4
    assert time.monotonic() - started < 10


def test_a_node_with_another_secret_gets_no_room_of_the_others_and_says_why(unlike: Unlike) -> None:
    unlike.cluster.join(unlike.early, "secret").read_opened()
    client = unlike.cluster.join(unlike.stranger, "secret")

    assert client.wait_closed() == 1013
    unlike.stranger.server.wait_output("another secret")
