"""`init`: templates, and command lines converted to site files."""

import re
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

from scalesocket.config.load import load_site
from tests.cli.serving import scalesocket, serving


@pytest.mark.parametrize("words", [[], ["--list"]])
def test_init_lists_the_templates_and_writes_nothing(words: list[str], tmp_path: Path) -> None:
    done = scalesocket("init", *words, cwd=tmp_path)

    assert done.code == 0
    for template in ("minimal", "chat", "game", "tcp"):
        assert any(line.startswith(f"{template} ") for line in done.out.splitlines())
    assert "scalesocket init TEMPLATE [DIR]" in done.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", ["minimal", "chat", "game", "tcp"])
def test_a_template_has_the_files_its_page_needs(template: str, tmp_path: Path) -> None:
    scalesocket("init", template, cwd=tmp_path)

    (page,) = tmp_path.rglob("index.html")
    needed = re.findall(r'(?:href|from) ?=? ?"(?!data:|\.\./)(?:\./)?([^"]+)"', page.read_text())

    assert sorted(needed) == ["room.js", "style.css"]
    assert all((page.parent / name).is_file() for name in needed)


@pytest.mark.parametrize(
    ("template", "say", "hear"),
    [
        ("minimal", "hi", "welcome to lobby"),
        ("chat", '{"text":"hi"}', '"t":"Join"'),
        ("game", '{"move":"up"}', '"t": "you"'),
        ("tcp", "0d6", "0d6: 0 = 0"),
    ],
)
def test_a_template_works(template: str, say: str, hear: str, tmp_path: Path) -> None:
    scalesocket("init", template, cwd=tmp_path)
    app = {"minimal": "hello", "tcp": "dice"}.get(template, template)

    with serving("serve", "site.toml", "--bind", "127.0.0.1:0", cwd=tmp_path) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/{app}/") as page:
            assert b"room.js" in page.read()
        with connect(f"ws://127.0.0.1:{server.port}/{app}/lobby") as client:
            client.send(say)
            assert hear in client.recv(timeout=10)


def test_a_command_line_becomes_a_site_file(tmp_path: Path) -> None:
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


def test_a_variable_in_a_command_line_stays_unexpanded(tmp_path: Path) -> None:
    done = scalesocket("init", "--from-cli", "scalesocket sh -- -c 'echo ${WHO:-you} $${'")
    (tmp_path / "site.toml").write_text(done.out)

    assert 'command = ["sh", "-c", "echo $${WHO:-you} $$${"]' in done.out
    (app,) = load_site(tmp_path / "site.toml").apps.values()
    assert app.command == ("sh", "-c", "echo ${WHO:-you} $${")


def test_a_converted_command_line_keeps_its_working_directory(tmp_path: Path) -> None:
    program = tmp_path / "hello.sh"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)

    done = scalesocket("init", "--from-cli", "scalesocket ./hello.sh", "deep/site", cwd=tmp_path)

    assert done.code == 0
    assert scalesocket("check", "deep/site/site.toml", cwd=tmp_path).out == "OK\n"


def test_differences_of_a_converted_command_line_are_in_comments() -> None:
    written = scalesocket("init", "--from-cli", "scalesocket --null cat").out

    assert "the command line ends them with a newline" in written
