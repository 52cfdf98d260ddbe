"""The commands for a running server: `status`, `diff` and `reload`."""

import json
import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from scalesocket.cli.remote import echo_changes
from scalesocket.control.messages import AffectedKey
from tests.cli.serving import SITE, scalesocket, serving


def test_edits_are_applied_on_change_on_sighup_and_on_request(file: Path) -> None:
    with serving("serve", str(file)) as server:
        file.write_text(SITE + '[apps.other]\ncommand = ["cat"]\n')
        server.wait_output('changes="added other"')

        file.write_text(SITE + "x =")
        server.wait_output("site.toml:6:4: not valid TOML")
        server.send_signal(signal.SIGHUP)
        server.wait_output("trigger=SIGHUP")
        done = scalesocket("reload", str(file))
        assert done.code == 78
        assert "site.toml:6:4" in done.err

        status = scalesocket("status", str(file)).out
        assert "generation 2" in status
        assert "site.toml:6:4" in status

        file.write_text(SITE)
        done = scalesocket("reload", str(file))
        assert done.code == 0
        server.wait_output('changes="removed other"')


def test_diff_shows_a_change_and_reload_applies_it(file: Path) -> None:
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


def test_diff_names_the_users_whom_a_stricter_rule_would_keep_out(capsys: pytest.CaptureFixture[str]) -> None:
    kept_out = AffectedKey(
        path="apps.chat.auth", kind="changed", reload="live", rooms=1, clients=3, kept_out=2, kept_out_users=("ann", "guest")
    )

    echo_changes([kept_out])

    printed = "~ apps.chat.auth: none -> none  [live] 1 room, 3 clients; would not be let in again: 2 (ann, guest)\n"
    assert capsys.readouterr().out == printed


def test_status_counts_rooms_and_clients(file: Path) -> None:
    with serving("serve", str(file)) as server, connect(f"ws://127.0.0.1:{server.port}/chat/lobby") as client:
        client.send("hi")
        client.recv(timeout=10)

        status = json.loads(scalesocket("status", "--format", "json", str(file)).out)
        shown = scalesocket("status", "--rooms", str(file)).out

    assert status["connections"] == 1
    assert [room["name"] for room in status["apps"][0]["rooms"]] == ["lobby"]
    assert "lobby  open" in shown


def test_status_shows_how_the_last_program_of_an_app_ended(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    command = r"""["sh", "-c", 'read line; printf "no such \033[31mmap\n" >&2; exit 3']"""
    file.write_text(SITE.split("[apps")[0] + f"[apps.chat]\ncommand = {command}\n")
    with serving("serve", str(file)) as server, connect(f"ws://127.0.0.1:{server.port}/chat/lobby") as client:
        before = scalesocket("status", str(file)).out
        client.send("go")
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=10)
        server.wait_output("backend ended")
        status = json.loads(scalesocket("status", "--format", "json", str(file)).out)
        shown = scalesocket("status", str(file)).out

    last = status["apps"][0]["last_exit"]
    assert last["at"] > 0
    assert last | {"at": 0} == {"how": "3", "at": 0, "room": "lobby", "line": "no such \x1b[31mmap"}
    assert "LAST EXIT" not in before
    assert r"no such \x1b[31mmap" in shown


def test_status_has_metadata_as_json_and_escapes_room_names(tmp_path: Path) -> None:
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


def test_a_misspelt_site_file_is_reported_as_missing(file: Path) -> None:
    done = scalesocket("status", "siet.toml", cwd=file.parent)

    assert done.code == 1
    assert "siet.toml: no such file" in done.err


def test_commands_with_a_control_socket_need_no_site_file(file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    socket = tmp_path / "control"
    file.write_text(file.read_text().replace("[server]", f'[server]\ncontrol = "{socket}"'))
    with serving("serve", str(file)):
        for command in ("status", "rooms", "clients"):
            done = scalesocket(command, "--control", str(socket), cwd=empty)
            assert done.code == 0, done.err


def test_commands_for_a_running_server_fail_without_one(file: Path) -> None:
    for command in ("diff", "reload", "status"):
        done = scalesocket(command, str(file))
        assert done.code == 1
        assert "no server runs this site" in done.err
