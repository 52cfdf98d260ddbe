"""One view of a site of three workers, and operations on all of it, with real processes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import bcrypt
import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.cli.serving import DEADLINE, Serving, scalesocket, serving
from tests.workers.serving import kill

SITE: Final = """
[server]
workers = 3
bind = "127.0.0.1:0"
control = "control.sock"
admin = {{ bind = "unix:admin.sock" }}
drain_timeout = "1s"

[apps.chat]
command = ["cat"]

[apps.vault]
command = ["cat"]
auth = {{ users_file = "users" }}
{more}
"""
ANN: Final = ("ann", "secret")


class Site:
    """A running server of three workers."""

    def __init__(self, server: Serving, file: Path, open_: ExitStack) -> None:
        self.server = server
        self.file = str(file)
        self._open = open_
        self.rooms: dict[str, ClientConnection] = {}
        """A client of each room of `chat`."""
        transport = httpx.HTTPTransport(uds=str(file.parent / "admin.sock"))
        self.admin = open_.enter_context(httpx.Client(transport=transport, base_url="http://admin"))

    def run(self, *words: str) -> str:
        """Run a command, which succeeds; return its output."""
        done = scalesocket(words[0], self.file, *words[1:])
        assert done.code == 0, done
        return done.out

    def fail(self, *words: str) -> str:
        """Run a command, which fails; return its error."""
        done = scalesocket(words[0], self.file, *words[1:])
        assert done.code == 1, done
        return done.err

    @property
    def status(self) -> Any:
        return json.loads(self.run("status", "--format", "json"))

    @property
    def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.status["workers"]
        return workers

    @property
    def chat(self) -> Any:
        return next(app for app in self.status["apps"] if app["name"] == "chat")

    def get(self, path: str) -> Any:
        """Fetch a page in JSON, over a connection of its own: of any worker."""
        answer = httpx.get(f"http://127.0.0.1:{self.server.port}{path}", headers={"Accept": "application/json"}, timeout=DEADLINE)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()

    def scrape(self) -> dict[str, float]:
        """The samples of /metrics."""
        text = httpx.get(f"http://127.0.0.1:{self.server.port}/metrics", timeout=DEADLINE).text
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    @property
    def open_rooms(self) -> set[str]:
        """The rooms of `chat`, those that are ending included."""
        return {entry["room"] for entry in json.loads(self.run("rooms", "chat", "--format", "json"))}

    def join(self, room: str) -> ClientConnection:
        """Join a room of `chat`, whose program runs then."""
        client = self._open.enter_context(connect(f"ws://127.0.0.1:{self.server.port}/chat/{room}", open_timeout=DEADLINE))
        client.send("hi")
        assert client.recv(timeout=DEADLINE) == "hi"
        self.rooms[room] = client
        return client

    def spread(self) -> None:
        """Have open rooms in every worker."""
        for number in range(100):
            if all(worker["rooms"] for worker in self.workers):
                return
            self.join(f"room-{number}-{len(self.rooms)}")
        raise AssertionError("no room for some worker")

    def owner_of(self, room: str) -> int:
        """The index of the worker that has a room, by its program."""
        (pid,) = (entry["pid"] for entry in json.loads(self.run("rooms", f"chat/{room}", "--format", "json")))
        spawner = _parent(pid)
        return next(worker["index"] for worker in self.workers if worker["pid"] == _parent(spawner))

    def end_worker(self, index: int, number: signal.Signals) -> None:
        """Send a worker a signal that ends it, and wait for its successor."""
        restarts = self.workers[index]["restarts"]
        kill(self.workers[index]["pid"], number=number)
        self.server.wait(
            lambda: self.workers[index]["restarts"] == restarts + 1 and self.workers[index]["state"] == "serving",
            f"another process of worker {index}",
        )
        self.forget_closed()

    def forget_closed(self) -> None:
        """Forget the clients whose connections have ended."""
        open_rooms = self.open_rooms
        self.rooms = {room: client for room, client in self.rooms.items() if room in open_rooms}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def open_site(folder: Path, more: str = "") -> Iterator[Site]:
    file = folder / "site.toml"
    file.write_text(SITE.format(more=more))
    (folder / "users").write_text(f"{ANN[0]}:{bcrypt.hashpw(ANN[1].encode(), bcrypt.gensalt(4)).decode()}\n")
    with serving("serve", str(file), cwd=folder) as server, ExitStack() as open_:
        yield Site(server, file, open_)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Site:
    """The server of this module, with rooms in every worker."""
    shared.spread()
    return shared


def test_every_page_shows_the_rooms_of_all_workers(site: Site) -> None:
    names, number = set(site.rooms), len(site.rooms)

    assert {room["name"] for room in site.get("/chat/api/rooms/")} == names
    assert {room["name"] for room in site.admin.get("/chat/api/rooms/").json()} == names
    for name in names:
        assert site.get(f"/chat/api/{name}/") == {"name": name, "connections": 1, "metadata": None}
        assert site.get(f"/chat/api/{name}/connections/") == 1
    for apps in (site.get("/api/apps/"), site.admin.get("/api/apps/").json()):
        assert (apps["connections"], apps["apps"][0]["rooms"], apps["apps"][0]["connections"]) == (number, number, number)
    assert site.get("/")[0] == {
        "app": "chat",
        "page": None,
        "websocket": f"ws://127.0.0.1:{site.server.port}/chat/ROOM",
        "rooms": number,
        "connections": number,
    }
    assert site.get("/chat/")["rooms"] == number
    assert site.get("/ready") == {"status": "ready", "draining": False, "generation": 1, "last_error": None}
    assert site.admin.get("/ready").json() == site.get("/ready")
    assert site.get("/health") == {"status": "ok"}
    samples = site.scrape()
    assert samples['scalesocket_websocket_connections_open{app="chat"}'] == number
    assert samples['scalesocket_rooms_open{app="chat",state="open"}'] == number
    assert samples["scalesocket_workers"] == 3
    assert [samples[f'process_resident_memory_bytes{{worker="{index}"}}'] > 0 for index in range(3)] == [True] * 3
    assert "process_resident_memory_bytes" not in samples
    assert httpx.get(f"http://127.0.0.1:{site.server.port}/chat/api/none/", timeout=DEADLINE).status_code == 404


def test_status_shows_the_workers(site: Site) -> None:
    workers = site.workers
    assert [worker["index"] for worker in workers] == [0, 1, 2]
    assert {worker["state"] for worker in workers} == {"serving"}
    assert sum(worker["rooms"] for worker in workers) == sum(worker["connections"] for worker in workers) == len(site.rooms)
    assert all(_parent(worker["pid"]) == site.server.process.pid and worker["since"] > 0 for worker in workers)

    lines = site.run("status").splitlines()
    assert lines[2].split() == ["WORKER", "PID", "STATE", "ROOMS", "CLIENTS", "RESTARTS", "SINCE"]
    assert lines[3].split()[:3] == ["0", str(workers[0]["pid"]), "serving"]
    assert max(map(len, lines)) <= 80


def test_operations_reach_the_rooms_of_all_workers(site: Site) -> None:
    number = len(site.rooms)
    listed = json.loads(site.run("rooms", "--format", "json"))
    assert {room["room"] for room in listed} == set(site.rooms)
    assert site.admin.get("/admin/rooms").json() == {"rooms": listed}
    assert {client["room"] for client in json.loads(site.run("clients", "chat", "--format", "json"))} == set(site.rooms)

    assert site.run("say", "chat/*", "hear me") == f"{number} messages sent in {number} rooms\n"
    assert {client.recv(timeout=DEADLINE) for client in site.rooms.values()} == {"hear me"}

    room = next(iter(site.rooms))
    (entry,) = json.loads(site.run("clients", f"chat/{room}", "--format", "json"))
    assert site.run("kick", f"chat/{room}", str(entry["id"])) == "kicked 1 client\n"
    with pytest.raises(ConnectionClosed, match="4403"):
        site.rooms.pop(room).recv(timeout=DEADLINE)
    site.server.wait(lambda: site.open_rooms == set(site.rooms), "the end of the room without clients")

    for words, text in (
        (("kick", f"chat/{next(iter(site.rooms))}", "9999999"), "there is no client 9999999 in chat/room-"),
        (("stop", f"chat/x{next(iter(site.rooms))}"), "(did you mean 'room-"),
        (("stop", "chat/zzz"), "there is no open room 'zzz' of chat\n"),
        (("stop", "chat/zzz*"), "no open room of chat matches 'zzz*'"),
        (("stop", "caht/x"), "there is no app 'caht' (did you mean 'chat'?)"),
        (("kick", "chat/*", "1", "--code", "1002"), "invalid close code 1002"),
    ):
        assert text in site.fail(*words)
    assert site.admin.post("/admin/stop", json={"app": "chat", "room": "zzz"}).status_code == 404
    assert site.admin.post("/admin/kick", json={"app": "chat", "room": "*", "id": 1, "code": 5}).status_code == 422

    number = len(json.loads(site.run("rooms", "--format", "json")))
    assert site.run("stop", "--wait", "chat/*").startswith(f"stopped {number} rooms")
    assert site.run("rooms") == "no open rooms\n"
    site.rooms.clear()
    site.server.wait_output("operation=stop asked_by")
    logged = [line for line in site.server.output.splitlines() if "operation=stop" in line and "INFO" in line]
    assert len(logged) == 1
    assert 'asked_by="control socket, uid' in logged[0]
    assert "worker=" not in logged[0]


def test_a_tail_shows_rooms_of_all_workers_and_reports_a_worker_that_ends(site: Site) -> None:
    room = next(iter(site.rooms))
    owner = site.owner_of(room)
    lost = site.workers[owner]["rooms"]
    words = [sys.executable, "-m", "scalesocket", "tail", "--format", "json", site.file, "chat/*"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        site.server.wait_output("operation=tail")
        for client in site.rooms.values():
            client.send("seen?")
        shown = [json.loads(tail.stdout.readline()) for _ in range(2 * len(site.rooms))]
        assert {(event["event"], event["room"]) for event in shown} == {
            (event, name) for event in ("in", "out") for name in site.rooms
        }

        site.end_worker(owner, signal.SIGKILL)

        event = json.loads(tail.stdout.readline())
        assert (event["event"], event["count"]) == ("lost", lost)
        next(iter(site.rooms.values())).send("still?")
        assert [json.loads(tail.stdout.readline())["text"] for _ in range(2)] == ["still?"] * 2
        site.run("stop", "--wait", "chat/*")  # a tail ends with its last room
        assert json.loads(tail.stdout.readlines()[-1])["event"] == "ended"
    assert tail.returncode == 0
    site.rooms.clear()
    again = site.join("again")
    with site.admin.stream("GET", "/admin/tail", params={"app": "chat", "room": "again"}) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: begin"
        again.send("hello")
        assert "hello" in next(line for line in lines if '"in"' in line)


def test_no_counter_falls_when_a_worker_ends_however_it_does(site: Site) -> None:
    room = next(iter(site.rooms))
    owner = site.owner_of(room)
    before = site.scrape()

    site.end_worker(owner, signal.SIGKILL)
    killed = site.scrape()
    site.spread()
    pid = site.workers[owner]["pid"]
    site.join(room)  # from here to the end of the worker nobody asks for the status
    for _ in range(5):
        site.rooms[room].send("count me")
        site.rooms[room].recv(timeout=DEADLINE)
    restarts = killed["scalesocket_worker_restarts_total"]
    kill(pid, number=signal.SIGTERM)
    site.server.wait(lambda: site.scrape()["scalesocket_worker_restarts_total"] > restarts, "a restart")
    ended = site.scrape()
    site.forget_closed()

    counters = [name for name in before if name.partition("{")[0].endswith("_total") and not name.startswith("process_")]
    assert {name for name in counters if not before[name] <= killed[name] <= ended[name]} == set()
    received = 'scalesocket_messages_received_total{app="chat"}'
    assert ended[received] >= killed[received] + 6


def test_a_ticket_of_any_worker_is_valid_once_at_any_worker(site: Site) -> None:
    url = f"127.0.0.1:{site.server.port}"
    for _ in range(6):
        answer = httpx.post(f"http://{url}/vault/api/gold/ticket", auth=ANN, timeout=DEADLINE)
        assert answer.status_code == 200, answer.text
        ticket = answer.json()["ticket"]
        with connect(f"ws://{url}/vault/gold?ticket={ticket}", open_timeout=DEADLINE) as client:
            client.send("hi")
            assert client.recv(timeout=DEADLINE) == "hi"
            (entry,) = json.loads(site.run("clients", "vault", "--format", "json"))
            assert entry["user"] == "ann"
        with pytest.raises(InvalidStatus, match="401"), connect(f"ws://{url}/vault/gold?ticket={ticket}"):
            pass
    answer = httpx.post(f"http://{url}/vault/api/silver/ticket", auth=ANN, timeout=DEADLINE)
    with pytest.raises(InvalidStatus, match="403"), connect(f"ws://{url}/vault/gold?ticket={answer.json()['ticket']}"):
        pass


def test_a_worker_that_does_not_answer_is_shown_with_its_last_numbers(site: Site) -> None:
    before = site.workers[1]
    kill(before["pid"], number=signal.SIGSTOP)
    try:
        during = site.workers[1]
        assert "silent" in site.run("status")
    finally:
        kill(before["pid"], number=signal.SIGCONT)

    assert (during["state"], during["rooms"], during["pid"]) == ("silent", before["rooms"], before["pid"])
    site.server.wait(lambda: site.workers[1]["state"] == "serving", "an answer of worker 1")


def test_while_the_supervisor_does_not_answer_rooms_go_on_and_tickets_are_refused(site: Site) -> None:
    url = f"http://127.0.0.1:{site.server.port}"
    tickets = [httpx.post(f"{url}/vault/api/gold/ticket", auth=ANN, timeout=DEADLINE).json()["ticket"] for _ in range(2)]
    site.server.send_signal(signal.SIGSTOP)
    try:
        client = site.join("another")
        client.send("go on")
        assert client.recv(timeout=DEADLINE) == "go on"
        assert site.get("/health") == {"status": "ok"}
        with ThreadPoolExecutor() as threads:  # each takes 5 s
            answers = [
                threads.submit(httpx.get, f"{url}/metrics", timeout=DEADLINE),
                threads.submit(httpx.post, f"{url}/vault/api/gold/ticket", auth=ANN, timeout=DEADLINE),
            ]
            with pytest.raises(InvalidStatus, match="503"), connect(f"ws{url[4:]}/vault/gold?ticket={tickets[0]}"):
                pass
        assert [answer.result().status_code for answer in answers] == [503, 503]
    finally:
        site.server.send_signal(signal.SIGCONT)

    site.server.wait(lambda: httpx.get(f"{url}/ready", timeout=DEADLINE).status_code == 200, "an answer of the supervisor")
    with connect(f"ws{url[4:]}/vault/gold?ticket={tickets[1]}", open_timeout=DEADLINE):
        pass


def test_a_drain_holds_for_all_workers_and_for_their_successors(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        site.spread()
        number = len(site.rooms)

        assert site.run("drain", "--wait", "chat").startswith(f"drained {number} rooms")
        for index in range(3):
            kill(site.workers[index]["pid"], number=signal.SIGKILL)
        site.server.wait(
            lambda: all(worker["restarts"] == 1 and worker["state"] == "serving" for worker in site.workers), "successors"
        )

        for attempt in range(10):
            with pytest.raises(InvalidStatus, match="503"), connect(f"ws://127.0.0.1:{site.server.port}/chat/{attempt}"):
                pass
        assert "drained, without new clients until an edit of the app: chat" in site.run("status")
        assert site.fail("drain", "caht") == "Error: there is no app 'caht' (did you mean 'chat'?)\n"

        site.run("drain")
        ready = httpx.get(f"http://127.0.0.1:{site.server.port}/ready", timeout=DEADLINE)
        assert (ready.status_code, ready.json()["draining"]) == (503, True)
        assert site.admin.get("/ready").status_code == 503
        kill(site.workers[0]["pid"], number=signal.SIGKILL)
        site.server.wait(lambda: site.workers[0]["restarts"] == 2 and site.workers[0]["state"] == "serving", "a successor")
        for _ in range(10):
            with pytest.raises(InvalidStatus, match="503"), connect(f"ws://127.0.0.1:{site.server.port}/vault/gold"):
                pass
        site.server.process.terminate()
        assert site.server.wait_ended() == 0
