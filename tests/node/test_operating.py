"""One view of the rooms of all nodes, and operations on them, with real processes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from scalesocket.node.lobby import LIST_LIFETIME, PUBLISH_INTERVAL
from tests.auth.test_matrix import basic
from tests.cli.serving import DEADLINE, scalesocket, scalesocket_process
from tests.node.serving import LEASE, SHORT_LEASE, Cluster, Node, open_cluster

ROOT = Path(__file__).parents[2]
ANN = ("ann", "secret")
LONG_LEASE = 'lease = "60s"'
VAULT = '[apps.vault]\ncommand = ["cat"]\nauth = { users_file = "users" }\n'


class Nodes:
    """Two nodes, each with a room."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
        (cluster.folder / "users").write_text(f"ann:{hashed}\nbob:{hashed}\n")
        admin = 'admin = {{ bind = "unix:{}.admin" }}'
        self.a, self.b = (cluster.start(name, server=admin.format(name), app=VAULT) for name in "ab")
        self.at_a, self.at_b = cluster.join(self.a, "den"), cluster.join(self.b, "nest")
        assert [client.read_opened()[1] for client in (self.at_a, self.at_b)] == ["a", "b"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with open_nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@contextmanager
def open_nodes(folder: Path) -> Iterator[Nodes]:
    with open_cluster(folder) as cluster:
        yield Nodes(cluster)


def fetch(node: Node, path: str) -> Any:
    answer = httpx.get(f"http://127.0.0.1:{node.server.port}{path}", headers={"Accept": "application/json"}, timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_any_node_lists_and_operates_on_the_rooms_of_all(nodes: Nodes) -> None:
    rooms = json.loads(scalesocket("rooms", str(nodes.a.file), "chat", "--format", "json").out)
    assert {(room["room"], room["node"]) for room in rooms} >= {("den", "a"), ("nest", "b")}
    table = scalesocket("rooms", str(nodes.a.file)).out.splitlines()
    assert table[0].split()[:4] == ["APP", "ROOM", "NODE", "STATE"]
    assert ["chat", "nest", "b", "open"] in [line.split()[:4] for line in table]
    assert scalesocket("say", str(nodes.a.file), "chat/nest", "hello").code == 0
    assert nodes.at_b.read() == "hello"
    assert "no open room 'nowhere'" in scalesocket("say", str(nodes.a.file), "chat/nowhere", "hello").err

    client = nodes.cluster.join(nodes.b, "short")
    client.read_opened()
    done = scalesocket("stop", str(nodes.a.file), "chat/short", "--wait", "--format", "json")

    assert json.loads(done.out) == {"rooms": 1, "clients": 1, "pending": 0}
    assert client.wait_closed() == 1001
    nodes.b.server.wait(lambda: is_logged(nodes.b, "stop"), "the log of b names who asked for the stop")


def is_logged(node: Node, operation: str) -> bool:
    """Whether the log of a node has an operation that the node `a` has asked for."""
    lines = [line for line in node.server.output.splitlines() if f"operation={operation} " in line]
    return any('asked_by="node a"' in line for line in lines)


def test_a_user_is_known_and_kicked_in_rooms_of_all_nodes_whichever_let_it_in(nodes: Nodes) -> None:
    for node, room in ((nodes.a, "one"), (nodes.b, "two")):  # who opens them
        nodes.cluster.join(node, room, app="vault", additional_headers=basic("bob", "secret"))
    anns = [nodes.cluster.join(nodes.b, room, app="vault", additional_headers=basic(*ANN)) for room in ("one", "two")]
    listed = json.loads(scalesocket("clients", str(nodes.a.file), "vault/*", "--format", "json").out)
    assert sorted((client["room"], client["node"], client["user"]) for client in listed) == [
        ("one", "a", "ann"),
        ("one", "a", "bob"),
        ("two", "b", "ann"),
        ("two", "b", "bob"),
    ]

    done = scalesocket("kick", str(nodes.a.file), "vault/*", "--user", "ann")

    assert done.out == "kicked 2 clients\n"
    assert [ann.wait_closed() for ann in anns] == [4403, 4403]
    left = json.loads(scalesocket("clients", str(nodes.b.file), "vault/*", "--format", "json").out)
    assert [client["user"] for client in left] == ["bob", "bob"]


def test_a_tail_shows_rooms_of_any_node_until_they_end(nodes: Nodes) -> None:
    here, there = nodes.cluster.join(nodes.a, "tailed-here"), nodes.cluster.join(nodes.b, "tailed-there")
    for client in (here, there):
        client.read_opened()
    with tailing(nodes.a.file, "chat/tailed-*") as lines:
        nodes.b.server.wait_output("operation=tail")
        for client, text in ((there, "of b"), (here, "of a")):
            client.send(text)
            assert [next(lines).split()[2] for _ in range(2)] == ["in", "out"]
        scalesocket("stop", str(nodes.a.file), "chat/tailed-*")

        ended = [line for line in lines if line.endswith("ended")]

    assert sorted(line.split()[1] for line in ended) == ["chat/tailed-here", "chat/tailed-there"]
    assert is_logged(nodes.b, "tail")


@contextmanager
def tailing(file: Path, rooms: str) -> Iterator[Iterator[str]]:
    """Run `scalesocket tail`; yield its lines."""
    command = [sys.executable, "-m", "scalesocket", "tail", str(file), rooms]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        try:
            yield (line.rstrip("\n") for line in process.stdout)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()


def test_the_lobby_of_any_node_shows_the_rooms_of_all_within_a_second(nodes: Nodes) -> None:
    assert PUBLISH_INTERVAL + LIST_LIFETIME < 1
    more = nodes.cluster.join(nodes.a, "den")
    joined_at = time.monotonic()

    while [find_clients(nodes.b, "den"), find_clients(nodes.a, "nest")] != [2, 1]:
        assert time.monotonic() - joined_at < DEADLINE
        time.sleep(0.02)

    assert find_clients(nodes.a, "den") == 2
    assert find_clients(nodes.b, "nest") == 1
    more.connection.close()


def find_clients(node: Node, room: str) -> int | None:
    rooms = fetch(node, "/chat/api/rooms/")
    return next((int(each["connections"]) for each in rooms if each["name"] == room), None)


def test_a_ticket_of_one_node_is_valid_once_on_another(nodes: Nodes) -> None:
    url = f"http://127.0.0.1:{nodes.a.server.port}/vault/api/gold/ticket"
    answer = httpx.post(url, auth=ANN, timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    ticket = answer.json()["ticket"]

    client = nodes.cluster.join(nodes.b, f"gold?ticket={ticket}", app="vault")
    client.send("mine")
    assert client.read() == "mine"
    with pytest.raises(InvalidStatus):
        nodes.cluster.join(nodes.a, f"gold?ticket={ticket}", app="vault")


def test_status_metrics_and_api_show_the_nodes(nodes: Nodes) -> None:
    found = json.loads(scalesocket("cluster", "status", str(nodes.a.file), "--format", "json").out)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(nodes.cluster.folder / "b.admin")), base_url="http://admin") as admin:
        there = admin.get("/api/cluster").json()
    metrics = httpx.get(f"http://127.0.0.1:{nodes.a.server.port}/metrics").text

    assert [(node["node"], node["state"], node["is_here"]) for node in found] == [("a", "serving", True), ("b", "serving", False)]
    assert all(node["answers"] and node["problem"] is None and 0 <= node["last_seen"] < LEASE for node in found)
    assert [(node["node"], node["is_here"]) for node in there] == [("a", False), ("b", True)]
    assert read_metric(metrics, "scalesocket_cluster_engine_up") == 1
    assert 0 < read_metric(metrics, "scalesocket_cluster_lease_seconds_left") <= LEASE
    assert read_metric(metrics, 'scalesocket_cluster_claims_total{result="won"}') >= 1
    assert read_metric(metrics, "scalesocket_cluster_rooms_owned") >= 1
    assert "a*" in scalesocket("cluster", "status", str(nodes.a.file)).out


def read_metric(text: str, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert match is not None, text
    return float(match[1])


def test_operations_on_unknown_nodes_and_on_those_that_run_fail_clearly(nodes: Nodes) -> None:
    unknown = scalesocket("cluster", "drain", str(nodes.a.file), "c")
    runs = scalesocket("cluster", "forget", str(nodes.a.file), "b")

    assert (unknown.code, runs.code) == (1, 1)
    assert "there is no node 'c' (one of: a, b)" in unknown.err
    assert "the node 'b' runs: it answers" in runs.err


def test_a_node_that_refuses_to_answer_is_named_and_not_forgotten(tmp_path: Path) -> None:
    with open_cluster(tmp_path) as cluster:
        a, b = cluster.start("a"), cluster.start("b", secret="another secret of a cluster")
        cluster.join(a, "den").read_opened()
        b.server.wait_output("lease opened")

        done = scalesocket("cluster", "forget", str(a.file), "b")
        drained = scalesocket("cluster", "drain", str(a.file), "b")
        shown = scalesocket("cluster", "status", str(a.file)).out
        listed = scalesocket("rooms", str(a.file))
        said = scalesocket("say", str(a.file), "chat/*", "hello")
        stopped = scalesocket("stop", str(a.file), "chat/*", "--wait", "--format", "json")

        assert (done.code, drained.code) == (1, 1)
        assert "the node 'b' runs: it answers" in done.err
        assert "the node answers wrong signature (does it have another secret?)" in drained.err
        assert re.search(
            r"^b does not answer: .*: the node answers wrong signature \(does it have another secret\?\)$", shown, re.MULTILINE
        )
        assert (listed.code, said.code, stopped.code) == (0, 1, 1)
        assert re.search(r"^chat  den   a     open", listed.out, re.MULTILINE)
        assert "warning: rooms may be missing; not reached: b (scalesocket cluster status shows why)" in listed.err
        assert "1 message sent in 1 room" in said.out
        assert "not done on all nodes; not reached: b (scalesocket cluster status shows why)" in said.err
        assert json.loads(stopped.out) == {"rooms": 1, "clients": 1, "pending": 0, "unreachable": ["b"]}


def test_a_process_under_the_name_of_a_node_that_runs_does_not_start_and_a_successor_does_not_wait(tmp_path: Path) -> None:
    with open_cluster(tmp_path) as cluster:
        first = cluster.start("a", more=LONG_LEASE)
        second = cluster.write("second", node="a", more=LONG_LEASE)

        done = scalesocket_process("serve", str(second))

        assert done.code == 1
        where = r"127\.0\.0\.1:\d+: it answers \(give each process its own cluster\.node, or stop the other one\)"
        assert re.search(rf"cluster\.node: another process is the node 'a', at {where}$", done.err, re.MULTILINE), done.err
        assert "Traceback" not in done.err
        assert json.loads(scalesocket("cluster", "status", str(first.file), "--format", "json").out)[0]["is_here"]
        first.kill()
        began = time.monotonic()
        successor = cluster.start("second", node="a", more=LONG_LEASE)
        successor.server.wait_output("lease opened")
        assert time.monotonic() - began < 40  # of the 60 s of the lease
        assert "waiting until its lease ends" not in successor.server.output


def test_a_drained_node_passes_its_clients_on(tmp_path: Path) -> None:
    with open_nodes(tmp_path) as nodes:
        done = scalesocket("cluster", "drain", str(nodes.a.file), "b")

        assert "closing 1 room of b with 1 client" in done.out
        assert nodes.at_b.wait_closed() == 1012
        assert nodes.cluster.join(nodes.b, "nest").read_opened()[1] == "a"
        status = scalesocket("status", str(nodes.b.file)).out
        assert re.search(r"^node b of cluster test: lease \d\.\d s; drained: opens no rooms until", status, re.MULTILINE)
        nodes_now = json.loads(scalesocket("cluster", "status", str(nodes.b.file), "--format", "json").out)
        assert [node["state"] for node in nodes_now] == ["serving", "draining"]


def test_a_dead_node_is_forgotten_before_its_lease_ends(tmp_path: Path) -> None:
    with open_nodes(tmp_path) as nodes:
        nodes.b.kill()

        done = scalesocket("cluster", "forget", str(nodes.a.file), "b")

        assert "forgot b, whose lease had" in done.out
        assert nodes.cluster.join(nodes.a, "nest").read_opened()[1] == "a"


def test_the_status_of_a_node_says_that_it_has_lost_the_engine(tmp_path: Path) -> None:
    with open_cluster(tmp_path) as cluster:
        node = cluster.start("a", more=SHORT_LEASE)
        node.server.wait_output("lease opened")
        assert "node a of cluster test: lease " in scalesocket("status", str(node.file)).out
        cluster.engine.kill()
        node.server.wait_output("lease lost")

        out = scalesocket("status", str(node.file)).out

        assert "node a of cluster test: no lease, and the engine does not answer" in out
