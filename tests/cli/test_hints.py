"""Hints for wrong command lines, and the default site file."""

import json
from pathlib import Path

import pytest

from tests.cli.serving import scalesocket, serving

SITE = '[server]\nbind = "127.0.0.1:0"\n\n[apps.chat]\ncommand = ["cat"]\n\n[apps.pong]\ncommand = ["tee"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a site.toml."""
    (tmp_path / "site.toml").write_text(SITE)
    return tmp_path


# --- Flags of other servers


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
def test_a_flag_of_another_server_gets_its_replacement(words: list[str], hint: str) -> None:
    done = scalesocket(*words)

    assert done.code == 2
    assert hint in done.err


def test_bind_is_suggested_only_to_commands_that_listen() -> None:
    assert "--bind" not in scalesocket("check", "--port", "8000").err


# --- The default site file


@pytest.mark.parametrize("command", ["serve", "check", "show", "status", "diff", "reload"])
def test_without_a_site_argument_and_site_toml_there_is_a_hint(command: str, tmp_path: Path) -> None:
    done = scalesocket(command, cwd=tmp_path)

    assert done.code == 2
    assert "no SITE given, and no site.toml in this folder" in done.err
    assert "scalesocket init" in done.err


def test_site_toml_is_the_default_site(folder: Path) -> None:
    assert scalesocket("check", cwd=folder).out == "OK\n"
    assert "[apps.chat]" in scalesocket("show", cwd=folder).out

    with serving("serve", cwd=folder) as server:
        assert "serves" in server.output
        assert "chat" in scalesocket("status", cwd=folder).out
        assert scalesocket("diff", cwd=folder).out == "nothing changed\n"
        assert "nothing changed" in scalesocket("reload", cwd=folder).out


@pytest.mark.parametrize("command", ["serve", "check", "show"])
def test_a_missing_site_file_gets_a_suggestion(command: str, folder: Path) -> None:
    for named, hint in (
        ("sites.toml", "did you mean site.toml?"),
        (".", "did you mean site.toml?"),
        ("nosuch.toml", "there is site.toml"),
    ):
        done = scalesocket(command, named, cwd=folder)

        assert done.code == 78
        assert f"{named}: cannot be read: " in done.out + done.err
        assert f"({hint})" in done.out + done.err


def test_the_suggestion_for_a_missing_site_file_is_the_nearest_name_or_init(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    assert "scalesocket init writes a site file" in scalesocket("serve", "nosuch.toml", cwd=tmp_path).err
    for name in ("games.toml", "chats.toml"):
        (tmp_path / name).write_text(SITE)

    assert "(did you mean games.toml?)" in scalesocket("serve", "game.toml", cwd=tmp_path).err
    assert "did you mean" not in scalesocket("serve", "xyz.toml", cwd=tmp_path).err


# --- check of several files, show of one app


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
def test_show_of_an_unknown_app_lists_the_apps(app: str, hint: str, folder: Path) -> None:
    done = scalesocket("show", "site.toml", app, cwd=folder)

    assert done.code == 2
    assert f"site.toml: no app {app!r}" in done.err
    assert hint in done.err


# --- A program that cannot be started


def test_run_refuses_a_missing_or_not_executable_program(tmp_path: Path) -> None:
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
