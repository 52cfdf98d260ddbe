"""The command line as a user meets it: words, exit codes, and what a running server answers."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from scalesocket.config.load import load_site
from tests.cli.serving import ROOT, scalesocket, scalesocket_process, serving

SITE = '[server]\nbind = "127.0.0.1:0"\n\n[apps.chat]\ncommand = ["cat"]\n'
BROKEN = '[apps.chat]\ncommand = ["cat"]\nrouting = "jsn"\nidle_timeout = 30\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(SITE)
    return path


# -- help, usage and exit codes


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_names_both_ways_to_serve(words: list[str]) -> None:
    done = scalesocket(*words)

    assert done.code == 0
    for word in ("scalesocket serve site.toml", "scalesocket [FLAGS] CMD [-- ARGS...]", "check", "reload", "init"):
        assert word in done.out


def test_run_help_lists_every_flag_of_the_original() -> None:
    done = scalesocket("run", "--help")

    assert done.code == 0
    for word in ("--frame[=MODE]", "--delimiters=CHARS", "--passenv LIST", "-b, --binary", "--oneshot"):
        assert word in done.out


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["cat", "-V"]])
def test_version_is_said(words: list[str]) -> None:
    done = scalesocket_process(*words)

    assert done.code == 0
    assert done.out.startswith("scalesocket 0.")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["cat", "file"],
        ["--jsno", "cat"],
        ["--json", "--frame", "cat"],
        ["serve"],
        ["serve", "site.toml", "--loop", "trio"],
        ["serve", "site.toml", "--bind", "nowhere"],
        ["init", "no-such-template"],
        ["init", "--from-cli", "scalesocket --jsno cat"],
        ["init", "--from-cli", "'"],
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], tmp_path: Path) -> None:
    done = scalesocket(*words, cwd=tmp_path)

    assert done.code == 2, done
    assert "Usage:" in done.err
    assert "Traceback" not in done.err


def test_a_misspelt_subcommand_is_answered_with_the_right_one() -> None:
    done = scalesocket("chekc", "site.toml")

    assert done.code == 2
    assert "scalesocket check" in done.err


def test_a_line_without_words_shows_the_ways_in() -> None:
    done = scalesocket()

    assert done.code == 2
    for line in ("scalesocket init ", "scalesocket serve site.toml ", "scalesocket --addr 127.0.0.1:9000 cat "):
        assert f"\n  {line}" in done.err


@pytest.mark.parametrize("words", [["site.toml"], ["./site.toml"], ["site.toml", "--bind", "a:1"], ["--json", "site.toml"]])
def test_a_site_file_without_serve_is_answered_with_it(words: list[str], file: Path) -> None:
    done = scalesocket(*words, cwd=file.parent)

    assert done.code == 2
    assert f"did you mean: scalesocket serve {' '.join(word for word in words if word != '--json')}" in done.err


def test_a_program_called_like_a_site_file_is_wrapped(tmp_path: Path) -> None:
    program = tmp_path / "hello.toml"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)

    with (
        serving("--addr", "127.0.0.1:0", "./hello.toml", cwd=tmp_path) as server,
        connect(f"ws://127.0.0.1:{server.port}/lobby") as client,
    ):
        assert client.recv(timeout=10) == "hello"


@pytest.mark.parametrize(
    "words", [["--foo", "cat"], ["-x", "cat"], ["print", "x"], ["serve", "site.toml", "--foo"], ["check", "-z"]]
)
def test_what_resembles_nothing_is_answered_without_a_guess(words: list[str]) -> None:
    done = scalesocket(*words)

    assert done.code == 2
    assert "did you mean" not in done.err.lower()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--jsno", "cat"], "(did you mean --json?)"),
        (["--max-rooms=3", "cat"], "(did you mean --maxrooms?)"),
        (["serve", "site.toml", "--no-wacth"], "(did you mean --no-watch?)"),
        (["sevre", "site.toml"], "did you mean: scalesocket serve"),
    ],
)
def test_what_is_near_is_answered_with_what_was_meant(words: list[str], meant: str) -> None:
    assert meant in scalesocket(*words).err


# -- check, show, schema


def test_check_says_ok(file: Path) -> None:
    done = scalesocket("check", str(file))

    assert (done.code, done.out) == (0, "OK\n")


def test_check_shows_all_errors_at_once(file: Path) -> None:
    file.write_text(BROKEN)
    done = scalesocket("check", "site.toml", cwd=file.parent)

    assert done.code == 78
    assert "site.toml:3:11: apps.chat.routing: unknown value 'jsn' (one of: broadcast, json, gwsocket)" in done.out
    assert "site.toml:4:16: apps.chat.idle_timeout" in done.out
    assert "^" in done.out


def test_check_shows_what_the_machine_lacks_beside_what_is_wrong(file: Path) -> None:
    file.write_text('[apps.a]\ncommand = ["no-such-program"]\n[apps.b]\ncommand = ["cat"]\nidle_timeout = 30\n')

    done = scalesocket("check", str(file))

    assert (done.code, done.out.count("\n2 errors")) == (78, 1)
    assert "no-such-program" in done.out
    assert 'write "30s"' in done.out


def test_check_speaks_json_to_editors(file: Path) -> None:
    assert json.loads(scalesocket("check", "--format", "json", str(file)).out) == []
    file.write_text(BROKEN)
    done = scalesocket("check", "--format", "json", str(file))

    assert done.code == 78
    assert [(problem["line"], problem["key"]) for problem in json.loads(done.out)] == [
        (3, "apps.chat.routing"),
        (4, "apps.chat.idle_timeout"),
    ]


def test_check_can_leave_this_machine_out(file: Path) -> None:
    file.write_text('[apps.chat]\ncommand = ["no-such-program-anywhere"]\n')

    assert scalesocket("check", str(file)).code == 78
    assert scalesocket("check", "--no-env", str(file)).code == 0


def test_a_file_that_cannot_be_read_is_wrong(tmp_path: Path) -> None:
    for command in ("check", "serve", "show"):
        done = scalesocket(command, "missing.toml", cwd=tmp_path)
        assert done.code == 78, done
        assert "missing.toml: cannot be read: no such file or directory" in done.out + done.err


def test_serve_refuses_what_check_refuses(file: Path) -> None:
    file.write_text(BROKEN)
    done = scalesocket("serve", str(file))

    assert done.code == 78
    assert "unknown value 'jsn'" in done.err


def test_show_names_where_values_came_from(file: Path) -> None:
    done = scalesocket("show", "--origin", "site.toml", cwd=file.parent)

    assert done.code == 0
    assert 'command = ["cat"]  # site.toml:5:11' in done.out
    assert 'routing = "broadcast"  # default' in done.out


def test_schema_is_json() -> None:
    assert "properties" in json.loads(scalesocket("schema").out)


# -- init


@pytest.mark.parametrize("words", [[], ["--list"]])
def test_init_lists_what_each_template_is_and_writes_nothing(words: list[str], tmp_path: Path) -> None:
    done = scalesocket("init", *words, cwd=tmp_path)

    assert done.code == 0
    for template in ("minimal", "chat", "game", "tcp"):
        assert any(line.startswith(f"{template} ") for line in done.out.splitlines())
    assert "scalesocket init TEMPLATE [DIR]" in done.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", ["minimal", "chat", "game", "tcp"])
def test_a_template_brings_what_its_page_needs(template: str, tmp_path: Path) -> None:
    scalesocket("init", template, cwd=tmp_path)

    (page,) = tmp_path.rglob("index.html")
    needed = re.findall(r'(?:href|from) ?=? ?"(?!data:|\.\./)(?:\./)?([^"]+)"', page.read_text())

    assert sorted(needed) == ["room.js", "style.css"]
    assert all((page.parent / name).is_file() for name in needed)


@pytest.mark.parametrize("template", ["minimal", "chat", "game", "tcp"])
def test_a_template_passes_its_check_and_is_never_written_over(template: str, tmp_path: Path) -> None:
    assert scalesocket("init", template, "site", cwd=tmp_path).code == 0
    assert scalesocket("check", "--strict", "site/site.toml", cwd=tmp_path).out == "OK\n"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    done = scalesocket("init", template, "site", cwd=tmp_path)

    assert done.code == 1
    assert "these files exist: site/site.toml" in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("template", "say", "hear"),
    [
        ("minimal", "hi", "welcome to lobby"),
        ("chat", '{"text":"hi"}', '"t":"Join"'),
        ("game", '{"move":"up"}', '"t": "you"'),
        ("tcp", "0d6", "0d6: 0 = 0"),
    ],
)
def test_a_template_can_be_played(template: str, say: str, hear: str, tmp_path: Path) -> None:
    scalesocket("init", template, cwd=tmp_path)
    app = {"minimal": "hello", "tcp": "dice"}.get(template, template)

    with serving("serve", "site.toml", "--bind", "127.0.0.1:0", cwd=tmp_path) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/{app}/") as page:
            assert b"WebSocket" in page.read()
        with connect(f"ws://127.0.0.1:{server.port}/{app}/lobby") as client:
            client.send(say)
            assert hear in client.recv(timeout=10)


def test_an_old_command_line_becomes_a_site_file(tmp_path: Path) -> None:
    line = "scalesocket --json --addr 127.0.0.1:0 --cache=tagged:8 --rooms=a,b --passenv= cat -- -u"
    done = scalesocket("init", "--from-cli", line)
    (tmp_path / "site.toml").write_text(done.out)

    assert done.code == 0
    assert line in done.out
    shown = scalesocket("show", str(tmp_path / "site.toml")).out
    for words in (
        'bind = ["127.0.0.1:0"]',
        'mount = "/"',
        'command = ["cat", "-u"]',
        'routing = "json"',
        "pass_env = []",
        'rooms = ["a", "b"]',
        'origins = ["*"]',
        'keep = "tagged"',
    ):
        assert words in shown


def test_what_looks_like_a_variable_in_an_old_command_line_stays_as_it_is(tmp_path: Path) -> None:
    done = scalesocket("init", "--from-cli", "scalesocket sh -- -c 'echo ${WHO:-you} $${'")
    (tmp_path / "site.toml").write_text(done.out)

    assert 'command = ["sh", "-c", "echo $${WHO:-you} $$${"]' in done.out
    (app,) = load_site(tmp_path / "site.toml").apps.values()
    assert app.command == ("sh", "-c", "echo ${WHO:-you} $${")


def test_a_converted_line_written_elsewhere_runs_where_it_was_typed(tmp_path: Path) -> None:
    program = tmp_path / "hello.sh"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)

    done = scalesocket("init", "--from-cli", "scalesocket ./hello.sh", "deep/site", cwd=tmp_path)

    assert done.code == 0
    assert scalesocket("check", "deep/site/site.toml", cwd=tmp_path).out == "OK\n"


# -- the original's command line


def test_the_originals_quick_start_works_letter_by_letter(tmp_path: Path) -> None:
    program = tmp_path / "example.sh"
    program.write_text('#!/bin/bash\n\necho \'{"message": "hello world"}\'\nsleep 1\necho \'{"message": "goodbye"}\'\nsleep 1\n')
    program.chmod(0o755)
    head = (
        "GET /exampleroom HTTP/1.1\r\nHost: localhost:9000\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Key: SGVsbG8sIHdvcmxkIQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    with (
        serving("--addr", "127.0.0.1:0", "./example.sh", cwd=tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        client.sendall(head.encode())
        heard = b"".join(iter(lambda: client.recv(4096), b""))

    assert heard.startswith(b"HTTP/1.1 101")
    assert b'{"message": "hello world"}' in heard
    assert b'{"message": "goodbye"}' in heard


def test_oneshot_ends_the_server_with_its_room() -> None:
    with serving("--addr=127.0.0.1:0", "--oneshot", "echo", "--", "hello") as server:
        with connect(f"ws://127.0.0.1:{server.port}/room") as client:
            assert client.recv(timeout=10) == "hello"
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=10)

        assert server.wait_ended() == 0


def test_python_is_unbuffered_on_the_originals_command_line_and_nothing_else_is_passed() -> None:
    with (
        serving("--addr=127.0.0.1:0", "--passenv=", "printenv") as server,
        connect(f"ws://127.0.0.1:{server.port}/room") as client,
    ):
        variables = dict(str(message).split("=", 1) for message in client)

    assert variables["PYTHONUNBUFFERED"] == "1"
    assert "PATH" not in variables


def test_a_program_that_is_not_there_is_said_to_be_missing_when_it_is_served() -> None:
    with serving("--addr=127.0.0.1:0", "--staticdir=nowhere", "no-such-program") as server:
        assert "'no-such-program' is not found on PATH" in server.said
        assert "there is no folder" in server.said


def test_ctrl_c_says_how_to_stop_at_once() -> None:
    with serving("--addr=127.0.0.1:0", "cat") as server:
        server.send_signal(signal.SIGINT)

        assert server.wait_ended() == 0
        assert "press Ctrl+C again to stop at once" in server.said


def test_a_signal_to_a_oneshot_server_is_one_signal() -> None:
    with serving("--addr=127.0.0.1:0", "--oneshot", "cat") as server:
        with connect(f"ws://127.0.0.1:{server.port}/room") as client:
            client.send("hello")
            assert client.recv(timeout=10) == "hello"
            server.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=10)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert server.wait_ended() == 0
        assert "at once" not in server.said


def test_a_subcommand_that_is_not_the_first_word_is_a_program(tmp_path: Path) -> None:
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\necho served by $APP in $ROOM\n")
    program.chmod(0o755)

    for words in (["run", "--addr=127.0.0.1:0", "--", "./serve"], ["--addr=127.0.0.1:0", "./serve"]):
        with serving(*words, cwd=tmp_path) as server, connect(f"ws://127.0.0.1:{server.port}/room") as client:
            assert client.recv(timeout=10) == "served by app in room"


def test_a_port_that_is_taken_ends_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = scalesocket_process("--addr", f"127.0.0.1:{taken.getsockname()[1]}", "cat")

    assert done.code == 1
    assert "address already in use" in done.err
    assert "Traceback" not in done.err


# -- a running server


def test_serve_says_where_it_listens_and_what_is_where(file: Path) -> None:
    with serving("serve", str(file)) as server:
        assert f"listening on http://127.0.0.1:{server.port}" in server.said
        assert f"ws://127.0.0.1:{server.port}/chat/ROOM" in server.said
        assert "\x1b" not in server.said

        server.send_signal(signal.SIGTERM)
        assert server.wait_ended() == 0


def test_an_edit_a_hangup_and_a_request_are_applied_and_said(file: Path) -> None:
    with serving("serve", str(file)) as server:
        file.write_text(SITE + '[apps.other]\ncommand = ["cat"]\n')
        server.wait_said('changes="added other"')

        file.write_text(SITE + "x =")
        server.wait_said("site.toml:6:4: not valid TOML")
        server.send_signal(signal.SIGHUP)
        server.wait_said("trigger=SIGHUP")
        done = scalesocket("reload", str(file))
        assert done.code == 78
        assert "site.toml:6:4" in done.err

        status = scalesocket("status", str(file)).out
        assert "generation 2" in status
        assert "site.toml:6:4" in status

        file.write_text(SITE)
        done = scalesocket("reload", str(file))
        assert done.code == 0
        server.wait_said('changes="removed other"')


def test_an_operator_sees_a_difference_and_applies_it(file: Path) -> None:
    with serving("serve", str(file), "--no-watch", "--loop", "asyncio") as server:
        assert scalesocket("diff", str(file)).out == "nothing changed\n"
        with connect(f"ws://127.0.0.1:{server.port}/chat/lobby") as client:
            client.send("hi")
            assert client.recv(timeout=10) == "hi"
            file.write_text(SITE + "max_clients = 7\n")

            assert scalesocket("diff", str(file)).out == "~ apps.chat.max_clients: none -> 7  [live] 1 room, 1 client\n"
            assert "nothing was, because of --dry-run" in scalesocket("reload", "--dry-run", str(file)).out
            assert "applied, generation 2" in scalesocket("reload", str(file)).out
            report = json.loads(scalesocket("reload", "--format", "json", "--restart", "chat", str(file)).out)
            assert report["restarted"] == 1
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012

        done = scalesocket("reload", "--restart", "caht", str(file))
        assert done.code == 1
        assert "one of: chat" in done.err


def test_status_counts_rooms_and_clients(file: Path) -> None:
    with serving("serve", str(file)) as server, connect(f"ws://127.0.0.1:{server.port}/chat/lobby") as client:
        client.send("hi")
        client.recv(timeout=10)

        status = json.loads(scalesocket("status", "--format", "json", str(file)).out)
        shown = scalesocket("status", "--rooms", str(file)).out

    assert status["connections"] == 1
    assert [room["name"] for room in status["apps"][0]["rooms"]] == ["lobby"]
    assert "lobby  open" in shown


def test_status_shows_metadata_as_json_and_names_that_a_terminal_can_bear(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    says = """command = ["sh", "-c", 'echo "{\\"_meta\\":true,\\"map\\":1}"; exec cat']"""
    file.write_text(SITE.split("[apps")[0] + f'[apps.chat]\n{says}\nrouting = "json"\nroom_pattern = ".+"\n')
    with serving("serve", str(file)) as server, connect(f"ws://127.0.0.1:{server.port}/chat/%1b%5b31m") as client:
        client.send("{}")
        client.recv(timeout=10)

        status = json.loads(scalesocket("status", "--format", "json", str(file)).out)
        shown = scalesocket("status", "--rooms", str(file)).out

    assert status["apps"][0]["rooms"][0]["metadata"] == {"map": 1}
    assert "\x1b" not in shown
    assert "\\x1b[31m" in shown


def test_a_misspelt_site_file_is_said_to_be_missing(file: Path) -> None:
    done = scalesocket("status", "siet.toml", cwd=file.parent)

    assert done.code == 1
    assert "siet.toml: no such file" in done.err


def test_what_a_site_file_cannot_say_of_delimiters_is_in_a_comment() -> None:
    written = scalesocket("init", "--from-cli", "scalesocket --null cat").out

    assert "the command line ends them with a newline" in written


def test_help_is_help() -> None:
    assert scalesocket("help").out == scalesocket("--help").out


def test_without_a_server_there_is_nobody_to_ask(file: Path) -> None:
    for command in ("diff", "reload", "status"):
        done = scalesocket(command, str(file))
        assert done.code == 1
        assert "no server runs this site" in done.err


def test_a_second_server_of_the_same_file_is_refused_before_it_listens(file: Path) -> None:
    with serving("serve", str(file)) as server:
        done = scalesocket_process("serve", str(file))
        taken = scalesocket_process("serve", "--bind", f"127.0.0.1:{server.port}", str(file))

    for refused in (done, taken):
        assert refused.code == 1
        assert refused.out == ""
        message = f"Error: {file}: process {server.process.pid} serves this file already "
        assert refused.err.startswith(message)
        assert f"scalesocket status {file}" in refused.err
        assert f"scalesocket reload {file}" in refused.err
        assert len(refused.err.splitlines()) == 1


def test_a_second_site_with_the_same_control_socket_is_refused_with_the_name_of_the_first(file: Path) -> None:
    control = f'control = "{file.parent / "control.sock"}"\n'
    file.write_text(SITE.replace("[apps", control + "[apps", 1))
    other = file.with_name("other.toml")
    other.write_text(file.read_text())

    with serving("serve", str(file)) as server:
        refused = scalesocket_process("serve", str(other))

    assert refused.code == 1
    socket_and_server = f"{file.parent / 'control.sock'}: process {server.process.pid} serves {file} with this control socket"
    assert refused.err == f"Error: {socket_and_server} (give {other} another server.control)\n"


def test_a_site_is_served_again_after_its_server_was_killed(file: Path) -> None:
    with serving("serve", str(file)) as server:
        server.process.kill()
        server.wait_ended()

    with serving("serve", str(file)) as server:
        assert server.port


def test_level_and_format_of_the_log_change_with_an_edit(file: Path) -> None:
    with serving("serve", str(file)) as server:
        file.write_text(SITE.replace("[apps", 'log = { format = "json" }\n[apps', 1))
        server.wait_said('"event":"reloaded"')


def test_systemd_is_told_when_it_is_ready_reloads_and_stops(file: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with serving("serve", str(file), "--no-watch", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as server:
            assert manager.recv(1000) == b"READY=1"
            server.send_signal(signal.SIGHUP)
            assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(1000) == b"READY=1"
            server.send_signal(signal.SIGTERM)
            assert manager.recv(1000) == b"STOPPING=1"


def test_a_socket_that_systemd_passed_is_served(file: Path) -> None:
    file.write_text(SITE.replace("127.0.0.1:0", "fd://3"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # sd_listen_fds(3): descriptor 3, and variables that name the very process which is to take it
        start = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.executable, [sys.executable, '-m', 'scalesocket', 'serve', sys.argv[2]])"
        )
        words = [sys.executable, "-c", start, str(listener.fileno()), str(file)]
        process = subprocess.Popen(words, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert process.stdout is not None
            assert any("/health" in line for line in process.stdout)
            with connect(f"ws://127.0.0.1:{port}/chat/lobby") as client:
                client.send("hi")
                assert client.recv(timeout=10) == "hi"
        finally:
            process.terminate()
            assert process.wait(20) == 0
            process.stdout.close()
