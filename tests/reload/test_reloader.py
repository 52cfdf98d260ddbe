"""An edit is applied as a whole, or not at all."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.lowlevel
import pytest

from scalesocket.config.model import App, Site
from scalesocket.config.plan import Plan
from scalesocket.config.problems import ConfigError
from scalesocket.errors import ScalesocketError
from scalesocket.reload import edited_site as edited_site_module
from scalesocket.reload import reloader as reloader_module
from scalesocket.reload import site_reader as site_reader_module
from scalesocket.reload.overrides import Overrides
from scalesocket.reload.preparation import Preparation
from scalesocket.reload.reloader import NoSuchAppError, ReloadError
from scalesocket.rooms.room import Room
from tests.conftest import capture_all_logs
from tests.playing import until
from tests.reload.editing import CHAT, OTHER, SERVER, WITHIN, Edited, open_edited

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "site.toml"


def rewrite(file: Path, text: str) -> None:
    file.write_text(text)


def remove(file: Path) -> None:
    file.unlink()


def link(file: Path, target: str) -> None:
    file.symlink_to(target)


def count_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def rename_over(file: Path, text: str) -> None:
    other = file.with_suffix(".new")
    other.write_text(text)
    other.rename(file)


# -- edits that are applied


async def test_an_edit_adds_an_app_without_affecting_others(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        ann = await edited.playground.join("/chat/lobby")
        await ann.say("before")
        await ann.hear("before")
        room = edited.playground.room("chat", "lobby")
        pid = room.status().pid

        edited.write(SERVER + CHAT + OTHER)
        await edited.wait_applied()

        bob = await edited.playground.join("/other/lobby")
        await bob.say("hi")
        await bob.hear("hi")
        await ann.say("after")
        await ann.hear("after")
        assert edited.playground.room("chat", "lobby") is room
        assert room.status().pid == pid


async def test_clients_of_a_removed_app_are_closed_with_1001(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT + OTHER) as edited:
        ann = await edited.playground.join("/chat/lobby")
        bob = await edited.playground.join("/other/lobby")

        edited.write(SERVER + CHAT)

        assert await bob.wait_closed() == (1001, "the app was removed")
        assert await edited.playground.refused("/other/lobby") == 404
        await ann.say("still here")
        await ann.hear("still here")


async def test_a_file_replaced_by_a_rename_is_read(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        rename_over(file, SERVER + CHAT + OTHER)
        await edited.wait_applied()


async def test_a_deleted_file_is_read_when_it_exists_again(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        remove(file)
        assert "cannot be read" in await edited.wait_refused()

        edited.write(SERVER + CHAT + OTHER)
        await until(lambda: edited.generation == 2, within=WITHIN)
        assert edited.last_error is None


async def test_the_swap_of_a_symlinked_folder_is_applied(tmp_path: Path) -> None:
    for version, text in (("..1", SERVER + CHAT), ("..2", SERVER + CHAT + OTHER)):
        (tmp_path / version).mkdir()
        rewrite(tmp_path / version / "site.toml", text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "site.toml").symlink_to("..data/site.toml")

    async with open_edited(tmp_path / "site.toml") as edited:
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        shutil.rmtree(tmp_path / "..1")

        await edited.wait_applied()


async def test_a_warning_is_logged_once_for_a_file_without_a_name(file: Path) -> None:
    """Like a file that is a mount of its own in a container, once it is replaced on the host."""
    real = file.with_name("real.toml")
    real.write_text(SERVER + CHAT)
    with capture_all_logs() as events, real.open() as opened:
        link(file, f"/proc/self/fd/{opened.fileno()}")
        async with open_edited(file) as edited:
            await until(lambda: edited.generation == 1)
            replaced = [event for event in events if event["event"] == "mounted files not watched"]
            assert replaced == []

            rename_over(real, SERVER + CHAT + OTHER)
            await until(lambda: any(event["event"] == "mounted files not watched" for event in events), within=WITHIN)
            await edited.reloader.reload("test")

    (warned,) = [event for event in events if event["event"] == "mounted files not watched"]
    assert warned["log_level"] == "warning"
    assert warned["files"] == [str(file)]
    assert "mount their folder" in warned["hint"]


@pytest.mark.usefixtures("real_intervals")
async def test_a_file_written_in_pieces_is_applied_once(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        text = SERVER + CHAT + OTHER
        for cut in range(0, len(text), 8):
            rewrite(file, text[: cut + 8])
            await anyio.sleep(0.02)

        await edited.wait_applied()
        assert edited.last_error is None


async def test_an_included_file_is_read_when_it_is_added_changed_and_removed(tmp_path: Path, file: Path) -> None:
    apps = tmp_path / "apps"
    apps.mkdir()
    async with open_edited(file, 'include = ["apps/*.toml"]\n' + SERVER + CHAT) as edited:
        rewrite(apps / "other.toml", OTHER)
        await edited.wait_applied(2)
        assert set(edited.gateway.pools) == {"chat", "other"}

        rewrite(apps / "other.toml", OTHER + "max_clients = 3\n")
        await edited.wait_applied(3)
        assert edited.gateway.site.apps["other"].max_clients == 3

        remove(apps / "other.toml")
        await edited.wait_applied(4)
        assert set(edited.gateway.pools) == {"chat"}


async def test_an_included_file_with_an_error_is_read_again_when_it_is_fixed(tmp_path: Path, file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        rewrite(tmp_path / "other.toml", "[apps.other\n")
        edited.write('include = ["other.toml"]\n' + SERVER + CHAT)
        assert "other.toml:1" in await edited.wait_refused()

        rewrite(tmp_path / "other.toml", OTHER)
        await until(lambda: edited.generation == 2, within=WITHIN)
        assert edited.last_error is None


async def test_an_edit_before_the_first_check_is_applied(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT, is_watching=False) as edited:
        edited.write(SERVER + CHAT + OTHER)
        edited.reloader.request("SIGHUP")

        await edited.wait_applied()


async def test_without_watching_an_edit_is_applied_on_request(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT, is_watching=False) as edited:
        edited.write(SERVER + CHAT + OTHER)
        await anyio.sleep(0.3)  # three times POLL: no edit may be applied
        assert edited.generation == 1

        edited.reloader.request("SIGHUP")
        await edited.wait_applied()


async def test_values_of_the_command_line_override_an_edit(file: Path) -> None:
    overrides = Overrides(log_level="error")
    async with open_edited(file, SERVER + CHAT, overrides=overrides, is_watching=False) as edited:
        edited.write(SERVER + 'log = { level = "warning" }\n' + CHAT + OTHER)
        await edited.reloader.reload("test")

        assert edited.gateway.site.server.log.level == "error"


# -- edits that change nothing


async def test_the_same_content_and_a_new_comment_change_nothing(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        site = edited.gateway.site
        for text in (SERVER + CHAT, "# a comment\n" + SERVER + CHAT):
            edited.write(text)
            report = await edited.reloader.reload("test")

            assert report.changes == ()
            assert not report.is_applied
            assert edited.gateway.site is site
            assert edited.generation == 1


# -- edits that are refused


BROKEN: dict[str, tuple[str, str]] = {
    "syntax": (SERVER + CHAT + "x =", "site.toml:6:"),
    "meaning": (SERVER + CHAT + 'routing = "jsn"', "apps.chat.routing: unknown value 'jsn'"),
    "truncated": ("", "no apps"),
    "command": (SERVER + CHAT + '[apps.other]\ncommand = ["no-such-program"]', "no-such-program"),
    "folder": (SERVER + CHAT + 'static = "no-such-folder"', "apps.chat.static"),
    "certificate": (
        SERVER + 'tls = { certificate = "no.pem", key = "no.key" }\n' + CHAT,
        "server.tls.certificate: cannot be read",
    ),
    "variable": (SERVER + CHAT + 'env = { A = "${NO_SUCH_VARIABLE_HERE}" }', "NO_SUCH_VARIABLE_HERE"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_an_edit_with_an_error_is_refused_until_it_is_reverted(file: Path, kind: str) -> None:
    text, told = BROKEN[kind]
    async with open_edited(file, SERVER + CHAT) as edited:
        ann = await edited.playground.join("/chat/lobby")
        site = edited.gateway.site

        edited.write(text)
        assert told in await edited.wait_refused()
        assert edited.gateway.site is site
        assert edited.generation == 1
        await ann.say("still here")
        await ann.hear("still here")

        edited.write(SERVER + CHAT)
        await until(lambda: edited.last_error is None, within=WITHIN)
        assert edited.generation == 1


async def test_a_port_in_use_leaves_the_old_one_open(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            edited.write(SERVER.replace(':0"', f':{port}"') + CHAT + OTHER)

            assert f"can't listen at 127.0.0.1:{port}" in await edited.wait_refused()
        assert set(edited.gateway.pools) == {"chat"}
        await edited.playground.join("/chat/lobby")


async def test_a_new_address_replaces_the_old_one_and_connections_stay(file: Path, tmp_path: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        ann = await edited.playground.join("/chat/lobby")
        old = edited.playground.port

        edited.write(SERVER.replace('"127.0.0.1:0"', '"localhost:0"') + CHAT)
        await edited.wait_applied()

        assert edited.playground.port != old
        bob = await edited.playground.join("/chat/lobby")
        await ann.say("hi")
        await ann.hear("hi")
        await bob.hear("hi")
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.1", old)


class Fault(Exception):
    """Injected."""


def raise_fault(*_: object, **__: object) -> None:
    raise Fault("injected")


async def raise_fault_later(*_: object, **__: object) -> None:
    await anyio.lowlevel.checkpoint()
    raise Fault("injected")


FAULTS: dict[str, Callable[[pytest.MonkeyPatch, Edited], None]] = {
    "read": lambda patch, edited: patch.setattr("scalesocket.reload.site_reader.load_site_with_origins", raise_fault),
    "plan": lambda patch, edited: patch.setattr(reloader_module, "make_plan", raise_fault),
    "report": lambda patch, edited: patch.setattr(edited_site_module, "find_affected", raise_fault),
    "check": lambda patch, edited: patch.setattr("scalesocket.reload.site_reader.check_machine", raise_fault),
    "certificates": lambda patch, edited: patch.setattr(reloader_module, "digest_files", raise_fault),
    "prepare": lambda patch, edited: patch.setattr(edited.playground.service.listeners.__class__, "prepare", raise_fault_later),
    "apply": lambda patch, edited: patch.setattr(edited.gateway.__class__, "apply", raise_fault),
}


async def test_an_exception_in_one_room_does_not_stop_an_edit_of_others(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Room.apply

    def fail_in_one(room: Room, app: App) -> None:
        if room.name == "one":
            raise RuntimeError("injected")
        apply(room, app)

    async with open_edited(file, SERVER + CHAT, is_watching=False) as edited:
        for name in ("one", "two"):
            ann = await edited.playground.join(f"/chat/{name}")
            await ann.say("hello")
            await ann.hear("hello")
        monkeypatch.setattr(Room, "apply", fail_in_one)
        edited.write(SERVER + CHAT + "max_clients = 7\n")

        await edited.reloader.reload("test")

        assert edited.generation == 2
        assert edited.playground.room("chat", "two").app.max_clients == 7


@pytest.mark.parametrize("step", FAULTS)
async def test_an_exception_at_any_step_leaves_the_old_site_unchanged(
    file: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_edited(file, SERVER + CHAT, is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")
        await ann.say("before")
        await ann.hear("before")
        site, fds = edited.gateway.site, count_fds()
        edited.write(SERVER.replace('"127.0.0.1:0"', '["127.0.0.1:0", "localhost:0"]') + CHAT + OTHER)

        with monkeypatch.context() as patch:
            FAULTS[step](patch, edited)
            with pytest.raises(ReloadError, match="injected"):
                await edited.reloader.reload("test")

        assert edited.last_error is not None
        assert edited.gateway.site is site
        assert set(edited.gateway.pools) == {"chat"}
        assert len(edited.playground.service.listeners.addresses) == 1
        await until(lambda: count_fds() == fds)
        await ann.say("still here")
        await ann.hear("still here")
        await edited.reloader.reload("once more")
        assert edited.generation == 2


async def test_preparations_are_rolled_back_when_a_later_one_fails(file: Path) -> None:
    calls: list[str] = []

    class Watched:
        def commit(self) -> None:
            calls.append("commit")

        def roll_back(self) -> None:
            calls.append("roll back")

    async def prepare(site: Site, plan: Plan) -> Preparation:
        calls.append("prepare")
        return Watched()

    async def fail(site: Site, plan: Plan) -> Preparation:
        raise ScalesocketError("no place")

    async with open_edited(file, SERVER + CHAT, prepare=[prepare, fail], is_watching=False) as edited:
        edited.write(SERVER + CHAT + OTHER)
        with pytest.raises(ReloadError, match="no place"):
            await edited.reloader.reload("test")

    assert calls == ["prepare", "roll back"]


async def test_an_edit_is_not_applied_once_the_server_is_shutting_down(file: Path) -> None:
    async def prepare(site: Site, plan: Plan) -> Preparation:
        edited.gateway.admission.is_closed = True
        return Untouched()

    class Untouched:
        def commit(self) -> None:
            raise AssertionError

        def roll_back(self) -> None:
            pass

    async with open_edited(file, SERVER + CHAT, prepare=[prepare], is_watching=False) as edited:
        edited.write(SERVER + CHAT + OTHER)
        with pytest.raises(ReloadError, match="the server is shutting down"):
            await edited.reloader.reload("start")
        assert edited.gateway.reload_state.last_error is None
        with pytest.raises(ReloadError, match="the server is shutting down"):
            await edited.reloader.reload("test")

        assert set(edited.gateway.pools) == {"chat"}
        assert edited.gateway.reload_state.last_error == "the server is shutting down"
        edited.gateway.admission.is_closed = False


async def test_an_exception_in_reading_is_raised_once_per_edit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0

    def fail(path: Path, *, with_machine: bool) -> NoReturn:
        nonlocal reads
        reads += 1
        raise RuntimeError("injected")

    async with open_edited(file, SERVER + CHAT) as edited:
        await until(lambda: edited.generation == 1)
        with monkeypatch.context() as patch:
            patch.setattr(site_reader_module, "load_site_with_origins", fail)
            edited.write(SERVER + CHAT + OTHER)
            await edited.wait_refused()
            await anyio.sleep(0.3)  # three times POLL: no second attempt may follow

        assert reads == 1


# -- requests of an operator


async def test_a_dry_run_reports_the_changes_and_applies_none(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT, is_watching=False) as edited:
        edited.write(SERVER + CHAT + OTHER)
        report = await edited.reloader.reload("test", dry_run=True)

        assert [(change.kind, change.path) for change in report.changes] == [("added", "apps.other")]
        assert not report.is_applied
        assert edited.generation == 1
        edited.write("x =")
        with pytest.raises(ConfigError):
            await edited.reloader.reload("test", dry_run=True)
        assert edited.last_error is None


async def test_a_diff_counts_affected_rooms_and_clients(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT + OTHER, is_watching=False) as edited:
        for path in ("/chat/a", "/chat/a", "/chat/b", "/other/c"):
            await edited.playground.join(path)

        edited.write(SERVER + "api = false\n" + CHAT + 'max_clients = 9\nenv = { A = "1" }\n[apps.new]\ntcp = "127.0.0.1:1"\n')
        report = await edited.reloader.diff()

        assert [(change.path, change.kind, change.reload, change.rooms, change.clients) for change in report.changes] == [
            ("server.api", "changed", "live", 3, 4),
            ("apps.other", "removed", "live", 1, 1),
            ("apps.new", "added", "next", 0, 0),
            ("apps.chat.env", "changed", "next", 0, 0),
            ("apps.chat.max_clients", "changed", "live", 2, 3),
        ]
        assert report.changes[-1].old is None
        assert report.changes[-1].new == "9"


async def test_a_diff_says_whom_a_stricter_rule_would_keep_out(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT + OTHER, is_watching=False) as edited:
        for path in ("/chat/a", "/chat/b", "/other/c"):
            await edited.playground.join(path)
        auth = f'auth = {{ jwt = {{ secret = "{"x" * 32}" }} }}\n'

        edited.write(SERVER + CHAT + auth + OTHER + auth.replace(" }\n", ", anonymous = true }\n"))
        report = await edited.reloader.diff()

        assert [(change.path, change.kept_out, change.kept_out_users) for change in report.changes] == [
            ("apps.chat.auth", 2, ("guest",)),
            ("apps.other.auth", 0, ()),
        ]


async def test_a_restart_closes_rooms_with_1012_and_new_rooms_follow_the_edit(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT + OTHER, is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")
        bob = await edited.playground.join("/other/lobby")

        edited.write(SERVER + CHAT + 'env = { A = "1" }\n' + OTHER)
        report = await edited.reloader.reload("test", restart="chat")

        assert report.restarted == 1
        assert (await ann.wait_closed())[0] == 1012
        await edited.playground.join("/chat/lobby")
        assert edited.playground.room("chat", "lobby").app.env == {"A": "1"}
        await bob.say("not me")
        await bob.hear("not me")


async def test_a_restart_of_an_unknown_app_does_nothing(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT, is_watching=False) as edited:
        edited.write(SERVER + CHAT + OTHER)
        with pytest.raises(NoSuchAppError, match="one of: chat, other"):
            await edited.reloader.reload("test", restart="caht")

        assert edited.generation == 1
        assert edited.last_error is None


async def test_concurrent_reloads_run_one_after_the_other(file: Path) -> None:
    async with open_edited(file, SERVER + CHAT) as edited:
        edited.write(SERVER + CHAT + OTHER)
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(edited.reloader.reload, f"test {number}")

        assert edited.generation == 2
