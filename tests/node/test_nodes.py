"""Nodes of a cluster with a real engine: real servers, started from the command line."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from scalesocket.server.asgi import create_app
from tests.node.serving import LEASE, SHORT, SHORT_LEASE, Cluster, Node, open_cluster

IMPATIENT = (
    "import sys; from scalesocket.cluster.placement import ClusterPlacement; "
    "ClusterPlacement.__init__.__kwdefaults__['hold'] = {hold}; "
    "from scalesocket.cli.main import main; main(sys.argv[4:])"
)
"""A program that serves, and holds clients not so long. `serving` appends `python -m scalesocket` and the words."""
PATIENT = (
    "import sys, scalesocket.cluster.peer_client as peer_client; peer_client.ANSWER_TIMEOUT = 60.0; "
    "from scalesocket.cli.main import main; main(sys.argv[4:])"
)
"""A program that serves, and gives the owner of a room a minute for its answer."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with open_cluster(tmp_path) as cluster:
        yield cluster


def probe(node: Node) -> tuple[int, str, str]:
    """What `/ready` answers: its status, and what it says of the node and of the engine."""
    answer = httpx.get(f"http://127.0.0.1:{node.server.port}/ready")
    return answer.status_code, answer.json()["status"], answer.json()["engine"]


def test_clients_of_two_nodes_meet_in_one_room(cluster: Cluster) -> None:
    a, b = cluster.start("a"), cluster.start("b")

    here, there = cluster.join(a, "den"), cluster.join(b, "den")

    opened = here.read_opened()
    assert opened[1] == "a"
    assert there.read_opened() == opened
    there.send("from b")
    assert [here.read(), there.read()] == ["from b", "from b"]
    here.send("from a")
    assert [here.read(), there.read()] == ["from a", "from a"]
    assert cluster.join(b, "nest").read_opened()[1] == "b"


def test_a_room_of_a_killed_node_opens_again_on_another_with_a_higher_fence(cluster: Cluster) -> None:
    a, b = cluster.start("a"), cluster.start("b")
    first = cluster.join(a, "den").read_opened()
    passing = cluster.join(b, "den")
    assert passing.read_opened() == first

    a.kill()
    killed_at = time.monotonic()

    assert passing.wait_closed() == 1006
    fence, node = cluster.join(b, "den").read_opened()
    assert node == "b"
    assert fence > first[0]
    assert time.monotonic() - killed_at < LEASE + 10


def test_a_client_that_joins_a_room_of_a_stopped_process_gets_it_as_soon_as_the_lease_has_ended(cluster: Cluster) -> None:
    a = cluster.start("a", more=SHORT_LEASE)
    b = cluster.start("b", more=SHORT_LEASE, wrapper=(sys.executable, "-c", PATIENT))
    first = cluster.join(a, "den").read_opened()
    passing = cluster.join(b, "den")  # connections to the owner are kept ready
    passing.read_opened()

    a.server.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        fence, node = cluster.join(b, "den").read_opened()
        assert time.monotonic() - stopped_at < SHORT + 15  # the old owner has 60 s for each answer
        assert passing.wait_closed() == 1006
        assert time.monotonic() - stopped_at < SHORT + 15
    finally:
        a.server.send_signal(signal.SIGCONT)

    assert node == "b"
    assert fence > first[0]


def test_the_rooms_of_a_node_that_stops_open_on_another_at_once(cluster: Cluster) -> None:
    a, b = (cluster.start(name, more='lease = "30s"') for name in "ab")
    client = cluster.join(a, "den")
    first = client.read_opened()
    passing = cluster.join(b, "den")
    passing.read_opened()

    a.server.send_signal(signal.SIGTERM)

    assert client.wait_closed() == 1012
    began = time.monotonic()
    assert passing.wait_closed() == 1012
    fence, node = cluster.join(b, "den").read_opened()
    assert node == "b"
    assert fence > first[0]
    assert time.monotonic() - began < 15  # long before the end of the lease
    assert a.server.wait_ended() == 0
    assert "lease lost" not in a.server.output


def test_a_restarted_program_keeps_the_fence_of_its_room(cluster: Cluster) -> None:
    a = cluster.start("a", app='restart = "always"')
    client = cluster.join(a, "den")
    opened = client.read_opened()

    client.send("die")

    assert client.read_opened() == opened


def test_a_room_ends_with_the_lease_of_its_node_and_opens_again_when_the_engine_is_back(cluster: Cluster) -> None:
    a = cluster.start("a", more=SHORT_LEASE)
    client = cluster.join(a, "den")
    fence, _ = client.read_opened()

    cluster.engine.kill()
    killed_at = time.monotonic()
    client.send("still here")

    assert client.read() == "still here"
    assert client.wait_closed() == 1012
    assert time.monotonic() - killed_at <= SHORT + 5
    assert probe(a) == (503, "no_engine", "down")
    cluster.engine.start()
    assert cluster.join(a, "den").read_opened()[0] > fence
    assert probe(a) == (200, "ready", "up")


def test_without_the_engine_a_client_of_a_new_room_is_held_and_then_closed_with_1013(cluster: Cluster) -> None:
    a = cluster.start("a", wrapper=(sys.executable, "-c", IMPATIENT.format(hold=1.5)))
    cluster.engine.kill()
    started = time.monotonic()

    client = cluster.join(a, "den")

    assert client.wait_closed() == 1013
    assert 1.5 <= time.monotonic() - started < 10  # without the change it would be 20 s


def test_rooms_that_are_kept_outlive_the_lease(cluster: Cluster) -> None:
    a = cluster.start("a", more=f'on_engine_loss = "keep"\n{SHORT_LEASE}')
    client = cluster.join(a, "den")
    client.read_opened()

    cluster.engine.kill()
    a.server.wait_output("engine unavailable")
    time.sleep(1.5 * SHORT)  # what must not happen has no event
    assert probe(a) == (200, "ready", "down")
    cluster.engine.start()
    a.server.wait_output("engine answers again")

    client.send("still here")
    assert client.read() == "still here"
    other = cluster.join(a, "den")
    other.send("in the same room")
    assert client.read() == "in the same room"


def test_new_rooms_open_on_the_less_busy_node(cluster: Cluster) -> None:
    a, b = (cluster.start(name, more='placement = "least"') for name in "ab")
    busy = [cluster.join(a, f"busy{number}") for number in range(2)]
    nodes = {client.read_opened()[1] for client in busy}

    deadline = time.monotonic() + 10
    number = 0
    while len(nodes) < 2 and time.monotonic() < deadline:
        nodes.add(cluster.join(a, f"room{number}").read_opened()[1])
        number += 1

    assert nodes == {"a", "b"}
    assert cluster.join(b, "busy0").read_opened()[1] in nodes


def test_a_node_whose_session_was_taken_away_ends_its_rooms_and_opens_them_again(cluster: Cluster) -> None:
    a = cluster.start("a")
    client = cluster.join(a, "den")
    fence, _ = client.read_opened()

    cluster.engine.client.delete("{test}:node:a")

    assert client.wait_closed() == 1012
    assert cluster.join(a, "den").read_opened()[0] > fence
    assert cluster.engine.keys("test") >= {"room:chat:den", "node:a"}


def test_a_room_that_the_directory_has_lost_ends_and_opens_again(cluster: Cluster) -> None:
    a = cluster.start("a")
    kept, client = cluster.join(a, "kept"), cluster.join(a, "den")
    kept.read_opened()
    fence, _ = client.read_opened()

    (rooms,) = cluster.engine.client.keys("{test}:rooms:*")
    cluster.engine.client.delete("{test}:room:chat:den")
    cluster.engine.client.srem(rooms, "chat:den")

    assert client.wait_closed() == 1012
    a.server.wait_output("room lost")
    assert cluster.join(a, "den").read_opened()[0] > fence
    kept.send("still here")
    assert kept.read() == "still here"


def test_nothing_is_left_in_the_engine_after_the_last_room_but_sessions_and_counters(cluster: Cluster) -> None:
    a, b = cluster.start("a", app='idle_timeout = "0s"'), cluster.start("b", app='idle_timeout = "0s"')
    clients = [cluster.join(node, "den") for node in (a, b)]
    clients[0].read_opened()

    for client in clients:
        client.connection.close()
    a.server.wait(lambda: not any("room" in key for key in cluster.engine.keys("test")), "no room in the directory")

    assert cluster.engine.keys("test") == {"engine", "fence", "nodes", "node:a", "node:b"}


def test_clients_that_pass_through_a_node_that_stops_are_closed_with_1012(cluster: Cluster) -> None:
    a, b = cluster.start("a"), cluster.start("b")
    cluster.join(a, "den").read_opened()
    passing = cluster.join(b, "den")
    passing.read_opened()

    b.server.send_signal(signal.SIGTERM)

    assert passing.wait_closed() == 1012
    assert cluster.join(a, "den").read_opened()[1] == "a"


def test_a_site_without_a_cluster_loads_no_redis() -> None:
    program = (
        "import sys; import scalesocket.cli.main, scalesocket.supervisor, scalesocket.workers.supervisor; "
        "sys.exit('redis' in sys.modules or any(name.startswith('scalesocket.cluster') for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.anyio
async def test_a_stock_hypercorn_refuses_a_site_with_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        '[cluster]\nengine = "redis://127.0.0.1:1/0"\nlisten = "127.0.0.1:0"\nsecret = "a secret of the tests"\n'
        '[apps.chat]\ncommand = ["cat"]\n'
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await create_app(str(file))({"type": "lifespan"}, receive, send)

    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "a node of a cluster is started with scalesocket serve" in sent[0]["message"]
