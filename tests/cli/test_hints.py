"""What a wrong command line is answered with, and which site file is meant where none is named."""

import json
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.cli.serving import scalesocket, serving

SITE = '[server]\nbind = "127.0.0.1:0"\n\n[apps.chat]\ncommand = ["cat"]\n\n[apps.pong]\ncommand = ["tee"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a site.toml."""
    (tmp_path / "site.toml").write_text(SITE)
    return tmp_path


# -- Flags of other servers


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--port", "8000", "cat"], "'--port' (write --bind 127.0.0.1:8000, or --bind 0.0.0.0:8000 for all addresses)"),
        (["--port=8000", "cat"], "write --bind 127.0.0.1:8000"),
        (["run", "--port=8000", "cat"], "write --bind 127.0.0.1:8000"),
        (["--port", "./hello.py"], "write --bind 127.0.0.1:PORT"),
        (["--address=::1", "cat"], "write --bind 127.0.0.1:PORT"),
        (["--devconsole", "cat"], "scalesocket init writes a site with a page"),
        (["--sslcert=x.pem", "cat"], "TLS needs a site file"),
        (["serve", "--port", "8000"], "'--port' (write --bind 127.0.0.1:PORT"),
        (["serve", "--addr", "127.0.0.1:8000"], "'--addr' (write --bind 127.0.0.1:PORT"),
    ],
)
def test_a_flag_of_another_server_is_answered_with_what_to_write_instead(words: list[str], hint: str) -> None:
    done = scalesocket(*words)

    assert done.code == 2
    assert hint in done.err


def test_a_flag_for_where_to_listen_is_not_suggested_where_nothing_listens() -> None:
    assert "--bind" not in scalesocket("check", "--port", "8000").err


# -- Which site file


@pytest.mark.parametrize("command", ["serve", "check", "show", "status", "diff", "reload"])
def test_a_command_without_a_site_says_so_where_there_is_none(command: str, tmp_path: Path) -> None:
    done = scalesocket(command, cwd=tmp_path)

    assert done.code == 2
    assert "no SITE given, and no site.toml in this folder" in done.err
    assert "scalesocket init" in done.err


def test_a_command_without_a_site_takes_site_toml(folder: Path) -> None:
    assert scalesocket("check", cwd=folder).out == "OK\n"
    assert "[apps.chat]" in scalesocket("show", cwd=folder).out

    with serving("serve", cwd=folder) as server:
        assert "serves" in server.said
        assert "chat" in scalesocket("status", cwd=folder).out
        assert scalesocket("diff", cwd=folder).out == "nothing changed\n"
        assert "nothing changed" in scalesocket("reload", cwd=folder).out


@pytest.mark.parametrize("command", ["serve", "check", "show"])
def test_a_site_file_that_is_not_there_is_answered_with_the_one_that_is(command: str, folder: Path) -> None:
    for named in ("nosuch.toml", "."):
        done = scalesocket(command, named, cwd=folder)

        assert done.code == 78
        assert f"{named}: cannot be read: " in done.out + done.err
        assert "(did you mean site.toml?)" in done.out + done.err


def test_a_site_file_that_is_not_there_is_answered_with_the_nearest_name_or_with_init(tmp_path: Path) -> None:
    assert "scalesocket init writes a site file" in scalesocket("serve", "nosuch.toml", cwd=tmp_path).err
    for name in ("games.toml", "chats.toml"):
        (tmp_path / name).write_text(SITE)

    assert "(did you mean games.toml?)" in scalesocket("serve", "game.toml", cwd=tmp_path).err
    assert "did you mean" not in scalesocket("serve", "xyz.toml", cwd=tmp_path).err


# -- check of several files, show of one app


def test_check_takes_several_files(folder: Path) -> None:
    (folder / "wrong.toml").write_text('[apps.chat]\ncommand = ["cat"]\nrouting = "jsn"\n')

    both = scalesocket("check", "site.toml", "wrong.toml", cwd=folder)
    fine = scalesocket("check", "site.toml", "site.toml", "--format", "json", cwd=folder)
    records = json.loads(scalesocket("check", "--format=json", "site.toml", "wrong.toml", cwd=folder).out)

    assert both.code == 78
    assert both.out.startswith("site.toml: OK\nwrong.toml:3:11: apps.chat.routing: unknown value 'jsn'")
    assert both.out.endswith("\nwrong.toml: 1 error\n")
    assert (fine.code, json.loads(fine.out)) == (0, [])
    assert [(record["file"], record["line"]) for record in records] == [("wrong.toml", 3)]


def test_show_prints_one_app(folder: Path) -> None:
    for words in (["site.toml", "pong"], ["pong"]):
        done = scalesocket("show", *words, cwd=folder)

        assert done.out.startswith("[apps.pong]\n")
        assert 'command = ["tee"]' in done.out
        assert "[server]" not in done.out
        assert "chat" not in done.out
    assert 'command = ["tee"]  # site.toml:8:11' in scalesocket("show", "site.toml", "pong", "--origin", cwd=folder).out


@pytest.mark.parametrize(("app", "hint"), [("pnog", "(did you mean pong?)"), ("xyz", "(its apps: chat, pong)")])
def test_show_of_an_app_that_is_not_there_names_those_that_are(app: str, hint: str, folder: Path) -> None:
    done = scalesocket("show", "site.toml", app, cwd=folder)

    assert done.code == 2
    assert f"site.toml: no app {app!r}" in done.err
    assert hint in done.err


# -- A program that cannot be started


def test_run_refuses_a_program_that_is_not_there_or_not_executable(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("print('hello')\n")

    missing = scalesocket("run", "no-such-program", cwd=tmp_path)
    beside = scalesocket("run", "hello.py", "--", "-x", cwd=tmp_path)
    closed = scalesocket("run", "./hello.py", cwd=tmp_path)
    words = scalesocket("run", "python3 hello.py", cwd=tmp_path)
    page = scalesocket("run", "--staticdir", "nowhere", "cat", cwd=tmp_path)

    assert [done.code for done in (missing, beside, closed, words, page)] == [78] * 5
    assert missing.err == "CMD: 'no-such-program' is not found on PATH\n"
    assert "scalesocket python3 -- hello.py -x, or scalesocket ./hello.py -- -x after chmod +x" in beside.err
    assert "hello.py' is not executable (chmod +x, or write scalesocket python3 -- ./hello.py)" in closed.err
    assert "write scalesocket python3 -- hello.py" in words.err
    assert page.err.startswith("--staticdir: there is no folder")


def test_the_originals_command_line_serves_a_program_that_is_not_there_and_closes_its_rooms(tmp_path: Path) -> None:
    with (
        serving("--bind", "127.0.0.1:0", "no-such-program", cwd=tmp_path) as server,
        connect(f"ws://127.0.0.1:{server.port}/room") as client,
        pytest.raises(ConnectionClosed) as closed,
    ):
        client.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
