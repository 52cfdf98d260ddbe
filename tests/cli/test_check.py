"""`check`, `show` and `schema`: what they print about a site file."""

import json
from pathlib import Path

import pytest

from tests.cli.serving import scalesocket

BROKEN = '[apps.chat]\ncommand = ["cat"]\nrouting = "jsn"\nidle_timeout = 30\n'


def test_check_prints_ok(file: Path) -> None:
    done = scalesocket("check", str(file))

    assert (done.code, done.out) == (0, "OK\n")


def test_check_shows_all_errors_at_once(file: Path) -> None:
    file.write_text(BROKEN)
    done = scalesocket("check", "site.toml", cwd=file.parent)

    assert done.code == 78
    assert "site.toml:3:11: apps.chat.routing: unknown value 'jsn' (one of: broadcast, json, gwsocket)" in done.out
    assert "site.toml:4:16: apps.chat.idle_timeout" in done.out
    assert "^" in done.out


def test_check_lists_missing_programs_together_with_errors(file: Path) -> None:
    file.write_text('[apps.a]\ncommand = ["no-such-program"]\n[apps.b]\ncommand = ["cat"]\nidle_timeout = 30\n')

    done = scalesocket("check", str(file))

    assert (done.code, done.out.count("\n2 errors")) == (78, 1)
    assert "no-such-program" in done.out
    assert 'write "30s"' in done.out


def test_check_prints_json_for_editors(file: Path) -> None:
    assert json.loads(scalesocket("check", "--format", "json", str(file)).out) == []
    file.write_text(BROKEN)
    done = scalesocket("check", "--format", "json", str(file))

    assert done.code == 78
    assert [(problem["line"], problem["key"]) for problem in json.loads(done.out)] == [
        (3, "apps.chat.routing"),
        (4, "apps.chat.idle_timeout"),
    ]


def test_check_can_skip_what_depends_on_the_machine(file: Path) -> None:
    file.write_text('[apps.chat]\ncommand = ["no-such-program-anywhere"]\n')

    assert scalesocket("check", str(file)).code == 78
    assert scalesocket("check", "--no-env", str(file)).code == 0


def test_an_unreadable_file_exits_with_78(tmp_path: Path) -> None:
    for command in ("check", "serve", "show"):
        done = scalesocket(command, "missing.toml", cwd=tmp_path)
        assert done.code == 78, done
        assert "missing.toml: cannot be read: no such file or directory" in done.out + done.err


def test_serve_refuses_what_check_refuses(file: Path) -> None:
    file.write_text(BROKEN)
    done = scalesocket("serve", str(file))

    assert done.code == 78
    assert "unknown value 'jsn'" in done.err


def test_show_prints_the_origin_of_each_value(file: Path) -> None:
    done = scalesocket("show", "--origin", "site.toml", cwd=file.parent)

    assert done.code == 0
    assert 'command = ["cat"]  # site.toml:5:11' in done.out
    assert 'routing = "broadcast"  # default' in done.out


def test_schema_is_json() -> None:
    assert "properties" in json.loads(scalesocket("schema").out)


@pytest.mark.parametrize("template", ["minimal", "chat", "game", "tcp"])
def test_a_template_passes_its_check_and_is_never_overwritten(template: str, tmp_path: Path) -> None:
    assert scalesocket("init", template, "site", cwd=tmp_path).code == 0
    assert scalesocket("check", "--strict", "site/site.toml", cwd=tmp_path).out == "OK\n"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    done = scalesocket("init", template, "site", cwd=tmp_path)

    assert done.code == 1
    assert "these files exist: site/site.toml" in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
