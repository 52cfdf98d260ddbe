"""The operator's commands: `rooms`, `clients`, `kick`, `stop`, `restart`, `say` and `drain`."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import click
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from scalesocket.cli.main import commands
from scalesocket.cli.rooms import format_seconds
from scalesocket.cli.tail import format_event
from scalesocket.cli.targets import is_site_file
from scalesocket.control.messages import TailEvent
from scalesocket.operations.table import OPERATIONS, STREAMS
from tests.cli.serving import ROOT, SITE, Serving, scalesocket, serving


@contextmanager
def join(server: Serving, path: str) -> Iterator[ClientConnection]:
    """A client of a room whose program runs."""
    with connect(f"ws://127.0.0.1:{server.port}{path}") as client:
        client.send("hi")
        assert client.recv(timeout=10) == "hi"
        yield client


def close_code(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_an_operator_lists_and_changes_rooms_and_clients(file: Path) -> None:
    name = str(file)
    file.write_text(SITE + '[apps.pong]\ncommand = ["cat"]\n')
    with serving("serve", name) as server, join(server, "/chat/lobby") as ann, join(server, "/pong/one") as bob:
        rooms = json.loads(scalesocket("rooms", "--format", "json", name).out)
        assert [(room["app"], room["room"], room["clients"]) for room in rooms] == [("chat", "lobby", 1), ("pong", "one", 1)]
        clients = json.loads(scalesocket("clients", "--format", "json", name, "chat").out)
        assert [(client["app"], client["room"], client["id"], client["user"]) for client in clients] == [
            ("chat", "lobby", 1, None)
        ]
        assert clients[0]["address"].startswith("127.0.0.1:")
        assert "lobby  open" in scalesocket("rooms", name).out
        assert scalesocket("clients", "pong/o*", cwd=file.parent).out.splitlines()[1].startswith("pong  one   2   -")

        assert scalesocket("say", name, "chat/lobby", "hear me").out == "1 message sent in 1 room\n"
        assert ann.recv(timeout=10) == "hear me"
        assert scalesocket("kick", name, "chat/lobby", "1", "--reason", "out").out == "kicked 1 client\n"
        assert close_code(ann) == (4403, "out")
        server.wait_output('operation=kick asked_by="control socket, uid')

        assert scalesocket("restart", name, "pong").out == "restarting 1 room with 1 client\n"
        assert close_code(bob) == (1012, "the room was restarted")
        with join(server, "/pong/one") as bob:
            assert json.loads(scalesocket("stop", "--format", "json", name, "pong/*").out) == {"rooms": 1, "clients": 1}
            assert close_code(bob) == (1001, "the room was stopped")

        assert scalesocket("drain", name, "pong").out == "draining 0 rooms with 0 clients\n"
        assert "until an edit of the app: pong" in scalesocket("status", name).out
        server.wait(lambda: scalesocket("rooms", name, "pong").out == "no open rooms\n", "the end of the rooms")
        assert scalesocket("clients", name, "pong").out == "no clients\n"
        for words, answer in (
            (("kick", name, "chat/lobby", "1"), "there is no open room 'lobby' of chat"),
            (("stop", name, "caht/lobby"), "there is no app 'caht' (did you mean 'chat'?)"),
            (("kick", name, "chat/lobby", "1", "--code", "1002"), "invalid close code 1002"),
        ):
            done = scalesocket(*words)
            assert done.code == 1
            assert answer in done.err


def test_commands_wait_for_the_end_of_rooms(file: Path) -> None:
    name = str(file)
    slow = '[apps.slow]\ncommand = ["sh", "-c", "trap \'\' TERM; cat; sleep 60"]\nstop_timeout = "400ms"\n'
    file.write_text(SITE + slow)
    with serving("serve", name) as server, join(server, "/slow/one"), join(server, "/chat/lobby"):
        late = scalesocket("stop", name, "slow/one", "--wait", "--timeout", "0s", "--format", "json")
        assert (late.code, json.loads(late.out)) == (1, {"rooms": 1, "clients": 1, "pending": 1})
        assert late.err.startswith("Error: not done within 0s: 1 room has not ended yet (")
        assert scalesocket("stop", name, "slow/*", "--wait").out == "stopped 1 room with 0 clients\n"
        assert scalesocket("rooms", name, "slow").out == "no open rooms\n"
        assert scalesocket("restart", name, "chat", "--wait").out == "restarted 1 room with 1 client\n"
        assert scalesocket("drain", name, "--wait").out == "drained 0 rooms with 0 clients\n"
        for words, error in (
            (("--timeout", "5s"), "--timeout limits --wait"),
            (("--wait", "--timeout", "5"), '5 has no unit (write "5s")'),
        ):
            wrong = scalesocket("drain", name, *words)
            assert wrong.code == 2
            assert error in wrong.err


def test_odd_arguments_get_an_error_that_says_what_is_wrong(file: Path) -> None:
    name = str(file)
    with serving("serve", name) as server, join(server, "/chat/lobby"):
        for words, code, answer in (
            (("say", name, "chat/lobby", "\udce9"), 1, "an argument is not valid UTF-8"),
            (("say", name, "chat/lobby", "x" * 70_000), 1, "the request is longer than 64 KiB"),
            (("tail", name, "chat/\udce9"), 1, "an argument is not valid UTF-8"),
            (("kick", name, "chat/lobby", "9" * 5000), 2, "is not the id of a client"),
            (("kick", "chat/lobby", "1", "--user", "ann"), 2, "give either ID or --user, not both"),
            (("kick", name), 2, "too few arguments\n"),
            (("drain", name, "chat/lobby"), 2, "'chat/lobby' is not APP (to close one room: scalesocket stop)"),
            (("rooms", name, "*/lobby"), 1, "there is no app '*' (* works in the name of a room only)"),
        ):
            done = scalesocket(*words, cwd=file.parent)
            assert (done.code, answer in done.err) == (code, True), done.err
            assert len(done.err) < 400


def test_tail_shows_the_messages_of_a_room_until_it_ends(file: Path) -> None:
    name = str(file)
    with serving("serve", name) as server, join(server, "/chat/lobby") as ann:
        with tailing(name, "chat/lobby", "--format", "json") as tail, tailing(name, "chat/*") as for_people:
            server.wait_output("operation=tail", times=2)
            ann.send("hello")
            received, sent = [json.loads(read_line(tail)) for _ in range(2)]
            assert (received["event"], received["client"], received["text"]) == ("in", 1, "hello")
            assert (sent["event"], sent["room"], sent["text"]) == ("out", "lobby", "hello")
            assert re.fullmatch(r"\d\d:\d\d:\d\d chat/lobby  in  1  hello\n", read_line(for_people))
            assert read_line(for_people).endswith("chat/lobby  out  all  hello\n")
            for_people.send_signal(signal.SIGINT)
            assert for_people.wait(timeout=10) == 0

            scalesocket("stop", name, "chat/lobby")
            assert json.loads(read_line(tail))["event"] == "ended"
            assert tail.wait(timeout=10) == 0

        done = scalesocket("tail", name, "chat/lobbby")
        assert done.code == 1
        assert "there is no open room 'lobbby' of chat" in done.err


def test_a_broken_file_that_was_in_use_is_a_warning(file: Path) -> None:
    name, tokens = str(file), file.parent / "tokens"
    tokens.write_text(f"ann:{'0' * 64}\n")
    file.write_text(SITE + '[apps.private]\ncommand = ["cat"]\nauth = { tokens_file = "tokens" }\n')
    with serving("serve", "--no-watch", name) as server:
        assert "warning" not in scalesocket("status", name).out
        tokens.write_text("ann")
        warning = f"apps.private.auth.tokens_file: the last valid contents of the file stay in use: {tokens}: line 1: is not NAME"

        done = scalesocket("reload", name)
        assert (done.code, done.out.splitlines()[-1]) == (0, "applied, generation 2")
        assert done.err.startswith(f"warning: {warning}")
        (again,) = json.loads(scalesocket("reload", "--format", "json", name).out)["warnings"]
        assert again.startswith(warning)
        assert f"warning: {warning}" in scalesocket("status", name).out
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
            connection.request("GET", "/ready")
            error = json.loads(connection.getresponse().read())["last_error"]
        assert error.startswith("apps.private.auth.tokens_file: the last valid contents of the file stay in use: … line 1")


def test_a_drained_site_is_alive_and_not_ready(file: Path) -> None:
    with serving("serve", str(file)) as server, join(server, "/chat/lobby") as ann:
        assert scalesocket("drain", str(file)).out == "draining 1 room with 1 client\n"

        assert close_code(ann) == (1001, "the server is shutting down")
        assert [http_status(server, path) for path in ("/health", "/ready")] == [200, 503]
        assert "draining" in scalesocket("status", str(file)).out
        server.send_signal(signal.SIGTERM)
        assert server.wait_ended() == 0


def http_status(server: Serving, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@contextmanager
def tailing(*words: str) -> Iterator["subprocess.Popen[str]"]:
    """A `scalesocket tail` beside the test."""
    command = [sys.executable, "-m", "scalesocket", "tail", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (TailEvent(at=0, event="left_out", count=9), "9 messages left out: they came too fast"),
        (TailEvent(at=0, app="a", room="b", event="out", to=(3, 5), text="\x1b[31m", size=5), "a/b  out  3,5  \\x1b[31m"),
        (
            TailEvent(at=0, app="a", room="b", event="out", exclude=(3,), base64="AAH/", size=3),
            "a/b  out  all but 3  base64 AAH/",
        ),
        (TailEvent(at=0, app="a", room="b", event="out", to=(), text="x", size=1), "a/b  out  nobody  x"),
        (TailEvent(at=0, app="a", room="b", event="in", client=1, text="x", size=9999, is_truncated=True), "1  x … (9999 bytes)"),
        (TailEvent(at=0, app="a", room="b", event="ended"), "a/b  ended"),
        (TailEvent(at=0.0, event="lost", count=1), "a worker process ended, and 1 room with it"),
        (TailEvent(at=0.0, event="lost", count=2), "a worker process ended, and 2 rooms with it"),
    ],
)
def test_an_event_is_one_line_that_is_safe_for_a_terminal(event: TailEvent, line: str) -> None:
    assert format_event(event).endswith(line)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["kick", "chat/lobby"], "too few arguments"),
        (["kick", "site.toml", "chat/lobby"], "too few arguments after the site file 'site.toml'"),
        (["cluster", "drain", "./site.toml"], "too few arguments after the site file './site.toml'"),
        (["kick", "chat/lobby", "ann"], "'ann' is not the id of a client"),
        (["kick", "chat", "1"], "'chat' is not APP/ROOM (chat/* means all rooms of chat)"),
        (["kick", "--user", "ann", "site.toml", "chat/lobby", "1"], "give either ID or --user, not both"),
        (["say", "chat/lobby", "hello", "world"], "'hello' is not APP/ROOM"),
        (["stop", "chat/"], "'chat/' is neither APP nor APP/ROOM"),
        (["rooms", "site.toml", "chat", "lobby"], "too many arguments"),
        (["drain", "pong"], "'pong' may be a file or an app (write ./pong for the file"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_asked(file: Path, words: list[str], problem: str) -> None:
    (file.parent / "pong").touch()

    done = scalesocket(*words, cwd=file.parent)

    assert done.code == 2
    assert problem in done.err


def test_a_room_may_have_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "site.toml").touch()
    monkeypatch.chdir(tmp_path)

    assert not is_site_file("chat/site.toml")
    assert is_site_file("./chat/site.toml")


def test_each_operation_has_a_command_and_a_row_in_the_docs() -> None:
    page = (ROOT / "docs" / "admin.md").read_text()

    for name in (*OPERATIONS, *STREAMS):
        group, _, word = name.partition("-")
        command = commands.commands[group]
        assert not word or (isinstance(command, click.Group) and word in command.commands)
        assert f"`{name.replace('-', ' ')}" in page


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (200_000, "2d")])
def test_a_duration_is_shown_in_its_largest_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
