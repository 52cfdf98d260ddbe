"""Edits of a site that several workers serve, from the command line, with workers that are killed and stopped meanwhile."""

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from scalesocket.control.client import ControlError
from tests.cli.serving import DEADLINE
from tests.ports import free_port
from tests.reload import test_loss_free
from tests.reload.test_certificates import TLS, write_certificate
from tests.reload.test_loss_free import count_fds, sending
from tests.workers.editing import CHAT, COUNT, NEW, ROOMS, SERVER, Editing, editing

EDITS: Final = 200
STEADY: Final = '[apps.steady]\ncommand = ["cat"]\n'
KILL_AT: Final = """
import os, signal
from scalesocket.workers import edits, offers
killed = []
def kill(worker):
    if worker.index == 1 and worker.process is not None and not killed:
        killed.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
def at_prepare(self, member, offer, real=offers.Offers.offer):
    kill(member[0])
    return real(self, member, offer)
def at_commit(member, edit, real=offers.commit):
    kill(member[0])
    real(member, edit)
def at_wait(members, real=offers.wait_committed):
    for worker, _ in members:
        kill(worker)
    return real(members)
"""
STOP: Final = """
import os, signal
from scalesocket.workers import edits, offers
stopped = []
def stop(member, edit, real=offers.commit):
    if member[0].index == 1 and not stopped:
        stopped.append(member[0].pid)
        os.kill(member[0].pid, signal.SIGSTOP)
    real(member, edit)
edits.commit = stop
"""
STEPS: Final = {
    "prepare": "offers.Offers.offer = at_prepare",
    "commit": "edits.commit = at_commit",
    "wait": "edits.wait_committed = at_wait",
}
REFUSING: Final = """
import sys
if sys.orig_argv[-1] == "1" and sys.orig_argv[-2].endswith("/workers/__main__.py"):
    sys.path.append({root!r})
    from scalesocket.errors import ScalesocketError
    from scalesocket.workers import edited_worker
    def fail(*_):
        raise ScalesocketError("this worker cannot")
    edited_worker.GivenListeners = fail
"""


def expect_gone(edited: Editing, app: str) -> None:
    """No worker admits clients to an app."""
    for room in ROOMS[:8]:
        with pytest.raises(InvalidStatus) as refused:
            edited.join(f"/{app}/{room}")
        assert refused.value.response.status_code == 404


def is_served(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((host, port), timeout=DEADLINE) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"
    except ConnectionRefusedError:
        return False


class Prober:
    """Connects again and again to an address that every edit keeps, in a thread."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.failures: list[str] = []
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Prober":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopped.wait(0.002):
            try:
                if is_served(self.port):
                    self.answered += 1
                else:
                    self.failures.append("not served")
            except OSError as error:
                self.failures.append(str(error))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def test_two_hundred_edits_under_load_lose_nothing_in_the_other_rooms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_loss_free, "INTERVAL", 0.05)
    port, other = free_port(), free_port()
    head = '[server]\nworkers = 3\ndrain_timeout = "0s"\n'
    exact, wide = f'bind = ["127.0.0.1:{port}"]\n', f'bind = ["0.0.0.0:{port}"]\n'
    more = f'bind = ["127.0.0.1:{port}", "127.0.0.1:{other}", "unix:{tmp_path}/one.sock"]\n'
    right = {
        "added": head + exact + STEADY + NEW,
        "changed": head + more + STEADY + NEW + "max_clients = 5\n",
        "moved": head + wide + STEADY + NEW + 'env = { A = "1" }\n',
        "removed": head + exact + STEADY + CHAT,
    }
    wrong = [
        head + exact + STEADY + NEW + 'routing = "jsn"\n',
        head + f'bind = ["127.0.0.1:{port}", "unix:{tmp_path}/missing/one.sock"]\n' + STEADY,
        head.replace("3", "2") + exact + STEADY,
        head + exact + STEADY + NEW + 'auth = { tokens_file = "missing.txt" }\n',
        head + exact + f'tls = {{ certificate = "{tmp_path}/no.pem", key = "{tmp_path}/no.key" }}\n' + STEADY,
    ]

    def edit(number: int) -> None:
        kind = list(right)[number % len(right)]
        assert edited.reload(right[kind]).generation == number + 2
        with pytest.raises(ControlError):
            edited.reload(wrong[number % len(wrong)])
        assert is_served(other) == (kind == "changed")
        assert (tmp_path / "one.sock").exists() == (kind == "changed")
        if kind == "removed":
            with pytest.raises(InvalidStatus):
                edited.join("/new/lobby")
        else:
            client = edited.join(f"/new/{number}")
            client.send("a")
            assert client.recv(timeout=DEADLINE) == "a"
            client.close()

    with editing(tmp_path, head + exact + STEADY) as edited:
        pids = [edited.server.process.pid, *edited.pids]
        async with sending(port, 48):
            steady = {worker.index: worker.rooms for worker in (await asyncio.to_thread(lambda: edited.status)).workers}
            assert all(steady.values())
            before: list[int] = []
            with Prober(port) as prober:
                for number in range(EDITS // 2):
                    await asyncio.to_thread(edit, number)
                    if number == 7:
                        before = list(map(count_fds, pids))
            after = list(map(count_fds, pids))
        status = edited.status

        assert prober.failures == []
        assert prober.answered > 100
        assert status.generation == EDITS // 2 + 1
        edited.server.wait_output("not reloaded", times=EDITS // 2)
        assert [worker.restarts for worker in status.workers] == [0] * COUNT
        assert all(now <= then + 8 for now, then in zip(after, before, strict=True)), (before, after)
        assert edited.server.output.count("INFO     reloaded ") == EDITS // 2
        assert edited.server.output.count("not reloaded") == EDITS // 2
        assert "WARNING" not in "".join(
            line for line in edited.server.output.splitlines(keepends=True) if "operation failed" not in line
        )


@pytest.mark.parametrize("step", STEPS)
def test_an_edit_goes_on_when_a_worker_is_killed_during_it(tmp_path: Path, step: str) -> None:
    with editing(tmp_path, SERVER + CHAT, more=KILL_AT + STEPS[step]) as edited:
        old = edited.pids

        report = edited.reload(SERVER + NEW)

        assert report.generation == 2
        edited.wait_replaced(1, old[1])
        edited.echo_in_all("new")
        expect_gone(edited, "chat")
        assert edited.reload(SERVER + CHAT).generation == 3
        edited.echo_in_all("chat")


def test_a_worker_that_starts_during_edits_ends_up_with_the_last_one(tmp_path: Path) -> None:
    with editing(tmp_path, SERVER + CHAT) as edited:
        old = edited.pids
        os.kill(old[2], signal.SIGKILL)
        site = edited.status.workers[2]
        number = 0
        while site.state != "serving" or site.pid == old[2]:
            number += 1
            edited.reload(SERVER + CHAT + f"max_clients = {100 + number}\n")
            site = edited.status.workers[2]
        edited.reload(SERVER + NEW)

        assert number > 1
        edited.server.wait(lambda: edited.get("/ready")[1]["generation"] == number + 2, "the last edit")
        edited.echo_in_all("new")
        expect_gone(edited, "chat")


def test_an_edit_does_not_wait_for_a_stopped_worker_which_gets_it_later(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    bind = f'[server]\nworkers = 3\nbind = ["127.0.0.1:{port}", "127.0.0.1:{other}"]\n'
    with editing(tmp_path, bind + CHAT) as edited:
        stopped = edited.pids[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            report = edited.reload(bind.replace(f', "127.0.0.1:{other}"', "") + CHAT + NEW)

            assert report.generation == 2
            assert not is_served(other)
            expect_gone(edited, "other")
            # Some of the rooms are of the stopped worker: it gets these clients before the site.
            clients = [edited.join(f"/new/{room}") for room in ROOMS]
        finally:
            os.kill(stopped, signal.SIGCONT)
        for client in clients:
            client.send("hello")
            assert client.recv(timeout=DEADLINE) == "hello"
        edited.server.wait_output("worker has the edited site")
        edited.echo_in_all("new")
        assert edited.pids[0] == stopped


def test_a_worker_that_is_stopped_before_the_commit_applies_it_when_it_goes_on(tmp_path: Path) -> None:
    with editing(tmp_path, SERVER + CHAT, more=STOP) as edited:
        pids = edited.pids
        try:
            assert edited.reload(SERVER + NEW).generation == 2
            assert edited.reload(SERVER + NEW + "max_clients = 100\n").generation == 3
        finally:
            os.kill(pids[1], signal.SIGCONT)

        edited.server.wait_output("worker has the edited site")
        edited.echo_in_all("new")
        expect_gone(edited, "chat")
        assert edited.pids == pids


def test_a_worker_that_cannot_get_the_site_in_force_keeps_its_rooms_for_a_while_and_is_then_replaced(tmp_path: Path) -> None:
    customize = tmp_path / "path"
    customize.mkdir()
    root = str(Path(__file__).parents[2])
    (customize / "sitecustomize.py").write_text(REFUSING.format(root=root))
    environment = {"PYTHONPATH": f"{customize}{os.pathsep}{root}"}
    more = "from scalesocket.workers import edits; edits.FAULT_RETRY = 0.1"
    with editing(tmp_path, SERVER + CHAT, more=more, environment=environment) as edited:
        pid = edited.pids[1]
        os.kill(pid, signal.SIGSTOP)
        try:
            assert edited.reload(SERVER + CHAT + NEW).generation == 2  # which this worker would have refused
        finally:
            os.kill(pid, signal.SIGCONT)

        edited.wait_replaced(1, pid)
        assert "it cannot serve the edited site: this worker cannot" in edited.server.output
        edited.echo_in_all("new")


def test_the_watched_file_is_applied_in_all_workers_with_one_line_in_the_log(tmp_path: Path) -> None:
    with editing(tmp_path, SERVER + CHAT, words=()) as edited:
        edited.file.write_text(SERVER + CHAT + NEW)
        edited.server.wait_output("reloaded  trigger=edit generation=2")

        edited.echo_in_all("new")
        edited.file.write_text(SERVER + CHAT + NEW + 'routing = "jsn"\n')
        edited.server.wait_output("not reloaded")

        assert {str(edited.get("/ready")[1]) for _ in range(12)} == {str(edited.get("/ready")[1])}
        assert "jsn" not in str(edited.get("/ready")[1])
        assert edited.server.output.count("reloaded") == 2


def test_the_refusal_of_one_worker_refuses_the_edit_everywhere(tmp_path: Path) -> None:
    customize = tmp_path / "path"
    customize.mkdir()
    root = str(Path(__file__).parents[2])
    (customize / "sitecustomize.py").write_text(REFUSING.format(root=root))
    with editing(tmp_path, SERVER + CHAT, environment={"PYTHONPATH": f"{customize}{os.pathsep}{root}"}) as edited:
        with pytest.raises(ControlError, match="this worker cannot"):
            edited.reload(SERVER + NEW)

        edited.echo_in_all("chat")
        expect_gone(edited, "new")
        assert edited.status.generation == 1
        assert edited.status.last_error == "this worker cannot"
        edited.server.wait_output("not reloaded")
        assert edited.server.output.count("not reloaded") == 1
        assert {str(edited.get("/ready")[1]) for _ in range(12)} == {str(edited.get("/ready")[1])}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
def test_a_renewed_certificate_is_used_by_all_workers_and_their_successors(tmp_path: Path) -> None:
    def fetch() -> bytes:
        context = ssl._create_unverified_context()
        with socket.create_connection(("127.0.0.1", edited.port), timeout=DEADLINE) as raw, context.wrap_socket(raw) as tls:
            return tls.getpeercert(binary_form=True) or b""

    old = write_certificate(tmp_path)
    with editing(tmp_path, SERVER + TLS + CHAT) as edited:
        assert {fetch() for _ in range(12)} == {old}

        new = write_certificate(tmp_path)
        assert [change.kind for change in edited.reload().changes] == ["renewed"]
        assert {fetch() for _ in range(12)} == {new}

        (tmp_path / "site.key").write_text("broken")
        with pytest.raises(ControlError, match=r"server\.tls\.key"):
            edited.reload()
        pid = edited.pids[0]
        os.kill(pid, signal.SIGKILL)
        edited.wait_replaced(0, pid)
        assert {fetch() for _ in range(12)} == {new}


def test_files_of_auth_are_read_once_and_their_last_valid_contents_also_serve_successors(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(f"ann:{hashlib.sha256(b'a-token-that-is-long').hexdigest()}\n")
    guarded = SERVER + CHAT + 'auth = { tokens_file = "tokens.txt", from = ["query:token"] }\n'
    with editing(tmp_path, SERVER + CHAT) as edited:
        edited.reload(guarded)
        tokens.write_text("?\n")

        report = edited.reload()

        assert len(report.warnings) == 1
        assert edited.status.warnings == report.warnings
        edited.server.wait_output("the last valid contents of the file stay in use")
        assert edited.server.output.count("the last valid contents of the file stay in use") == 1
        pid = edited.pids[1]
        os.kill(pid, signal.SIGKILL)
        edited.wait_replaced(1, pid)
        for room in ROOMS:
            edited.join(f"/chat/{room}?token=a-token-that-is-long").close()
        with pytest.raises(InvalidStatus):
            edited.join("/chat/lobby?token=another-token-that-is-long")


def test_a_report_has_the_figures_of_all_workers_and_a_restart_reaches_all(tmp_path: Path) -> None:
    with editing(tmp_path, SERVER + CHAT) as edited:
        clients = [edited.join(f"/chat/{room}") for room in ROOMS for _ in range(2)]
        edited.server.wait(
            lambda: sum(worker.connections for worker in edited.status.workers) == len(clients), "all clients are in their rooms"
        )
        (tmp_path / "tokens.txt").write_text(f"ann:{hashlib.sha256(b'a-token-that-is-long').hexdigest()}\n")

        (limit,) = edited.diff(SERVER + CHAT + "max_clients = 9\n").changes
        (guarded, *_) = [
            change
            for change in edited.diff(SERVER + CHAT + 'auth = { tokens_file = "tokens.txt" }\n').changes
            if change.path == "apps.chat.auth"
        ]
        (removed, added) = edited.diff(SERVER + NEW).changes

        assert (limit.rooms, limit.clients) == (len(ROOMS), len(clients))
        assert (guarded.kept_out, guarded.kept_out_users) == (len(clients), ("guest",))
        assert (removed.rooms, removed.clients, added.rooms) == (len(ROOMS), len(clients), 0)
        edited.file.write_text(SERVER + CHAT)
        assert edited.reload(restart="chat").restarted == len(ROOMS)
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=DEADLINE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012


def test_edits_are_serialised_and_refused_for_fixed_keys_and_while_the_server_drains(tmp_path: Path) -> None:
    with editing(tmp_path, SERVER + CHAT + 'stop_timeout = "1h"\nstop_signal = "SIGCONT"\n') as edited:
        with pytest.raises(ControlError, match=r"server\.workers: 3 -> 2 \(restart needed: .*nothing else of this edit"):
            edited.reload((SERVER + CHAT + NEW).replace("workers = 3", "workers = 2"))
        assert edited.reload(SERVER + CHAT + NEW, dry_run=True).generation == 1
        expect_gone(edited, "new")
        generations: list[int] = []
        edited.file.write_text(SERVER + CHAT + NEW)
        asking = [threading.Thread(target=lambda: generations.append(edited.reload().generation)) for _ in range(4)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        edited.echo_in_all("new")
        assert generations == [2] * 4
        edited.server.send_signal(signal.SIGHUP)
        edited.server.wait_output("nothing to reload", times=4)

        client = edited.join("/chat/lobby")
        client.send("a")
        assert client.recv(timeout=DEADLINE) == "a"
        edited.server.send_signal(signal.SIGTERM)
        edited.server.wait_output("stopping")
        with suppress(ConnectionClosed):
            client.recv(timeout=DEADLINE)
        with pytest.raises(ControlError, match="shutting down"):
            edited.reload(SERVER + CHAT)
        edited.server.send_signal(signal.SIGTERM)
        assert edited.server.wait_ended() == 1
