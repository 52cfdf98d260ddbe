"""The effect of an edit of each key on a running room, by the class of the key; one test a key."""

from pathlib import Path
from typing import Any

import pytest

from scalesocket.config.keys import Reload, file_keys_of, keys_of
from scalesocket.config.model import App, Server
from scalesocket.config.render import to_toml
from scalesocket.reload.reloader import ReloadError
from tests.key_edits import APP_EDITS, SERVER_EDITS
from tests.playing import program, until
from tests.reload.editing import CHAT, SERVER, open_edited

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def site_text(app: dict[str, Any], server: dict[str, Any]) -> str:
    tables = {
        "server": {"bind": "127.0.0.1:0", "control": "off", **server},
        "apps.chat": {"command": ["cat"], "join_message": "", "leave_message": "", **app},
    }
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {to_toml(value)}" for key, value in table.items() if value is not None)]
    return "\n".join(lines) + "\n"


def test_every_key_is_covered_by_this_module() -> None:
    assert set(APP_EDITS) == set(file_keys_of(App))
    assert set(SERVER_EDITS) | {"tls", "control", "admin", "log", "workers"} == set(file_keys_of(Server))


@pytest.mark.parametrize("key", [key for key, values in APP_EDITS.items() if values != (None, None)])
async def test_a_running_room_adopts_only_live_keys(key: str, tmp_path: Path) -> None:
    before, after = APP_EDITS[key]
    async with open_edited(tmp_path / "site.toml", site_text({key: before}, {}), is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")
        room = edited.playground.room("chat", "lobby")
        await until(lambda: room.status().pid is not None)
        pid, old = room.status().pid, getattr(room.app, key)

        edited.write(site_text({key: after}, {}))
        report = await edited.reloader.reload("test")

        new = getattr(edited.gateway.site.apps["chat"], key)
        assert new != old
        is_live = keys_of(App)[key].reload is Reload.LIVE
        assert [(change.path, change.reload) for change in report.changes] == [
            (f"apps.chat.{key}", "live" if is_live else "next")
        ]
        assert (report.changes[0].rooms, report.changes[0].clients) == ((1, 1) if is_live else (0, 0))
        assert getattr(room.app, key) == (new if is_live else old)
        assert getattr(edited.gateway.pools["chat"].app, key) == new
        assert room.status().pid == pid
        await ann.say("still here")
        await ann.hear("still here")


@pytest.mark.parametrize("key", SERVER_EDITS)
async def test_a_changed_key_of_the_server_takes_effect_and_connections_stay(key: str, tmp_path: Path) -> None:
    before, after = SERVER_EDITS[key]
    async with open_edited(tmp_path / "site.toml", site_text({}, {key: before}), is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")

        edited.write(site_text({}, {key: after}))
        report = await edited.reloader.reload("test")

        assert [(change.path, change.reload) for change in report.changes] == [
            (f"server.{key}", keys_of(Server)[key].reload.value)
        ]
        assert getattr(edited.gateway.site.server, key) != getattr(Server(), key) or after == before
        await edited.playground.join("/chat/lobby")
        await ann.say("still here")
        await ann.hear("still here")


async def test_a_lingering_room_is_stopped_when_its_app_changes(tmp_path: Path) -> None:
    text = site_text({"idle_timeout": "1m"}, {})
    async with open_edited(tmp_path / "site.toml", text, is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")
        await ann.leave()
        room = edited.playground.room("chat", "lobby")
        await until(lambda: room.status().state == "lingering")

        edited.write(text + 'env = { A = "1" }\n')
        report = await edited.reloader.reload("test")

        assert report.changes[0].rooms == 1
        await edited.playground.wait_no_rooms()


async def test_a_starting_room_without_clients_is_stopped_when_its_app_changes(tmp_path: Path) -> None:
    text = f'{SERVER}[apps.chat]\ncommand = {to_toml(program("tcp", "slow"))}\nport = "auto"\nidle_timeout = "1m"\n'
    async with open_edited(tmp_path / "site.toml", text, is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")
        await ann.leave()
        await until(lambda: not edited.playground.room("chat", "lobby").clients)
        assert edited.playground.room("chat", "lobby").status().state == "starting"

        edited.write(text + 'env = { A = "1" }\n')
        await edited.reloader.reload("test")

        await edited.playground.wait_no_rooms()


async def test_join_messages_of_a_running_room_follow_its_routing_and_the_edited_text(tmp_path: Path) -> None:
    text = SERVER + CHAT
    async with open_edited(tmp_path / "site.toml", text, is_watching=False) as edited:
        ann = await edited.playground.join("/chat/lobby")

        edited.write(text + 'routing = "json"\n')
        await edited.reloader.reload("test")
        await edited.playground.join("/chat/lobby")
        await ann.say("no join was told")
        await ann.hear("no join was told")

        edited.write(text + 'routing = "json"\njoin_message = "+#ID"\n')
        await edited.reloader.reload("test")
        await edited.playground.join("/chat/lobby")
        await ann.hear("+3")


async def test_an_edit_of_a_fixed_key_is_refused_as_a_whole_until_it_is_taken_back(tmp_path: Path) -> None:
    async with open_edited(tmp_path / "site.toml", site_text({}, {}), is_watching=False) as edited:
        edited.write(site_text({"max_clients": 5}, {"workers": 3}))

        for is_dry in (True, False):
            with pytest.raises(ReloadError, match=r"server.workers: 1 -> 3 \(restart needed: .*\)"):
                await edited.reloader.reload("test", dry_run=is_dry)

        assert [(change.path, change.reload) for change in (await edited.reloader.diff()).changes] == [
            ("server.workers", "fixed"),
            ("apps.chat.max_clients", "live"),
        ]
        assert edited.gateway.site.apps["chat"].max_clients is None
        edited.write(site_text({"max_clients": 5}, {}))
        await edited.reloader.reload("test")
        assert edited.gateway.site.apps["chat"].max_clients == 5


async def test_a_cluster_that_is_added_to_a_running_site_is_refused_and_its_secrets_are_not_shown(tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    cluster = f'[cluster]\nengine = "redis://:{secret}@10.0.0.2/0"\nlisten = "10.0.0.5:9100"\nsecret = "{secret}"\n'
    async with open_edited(tmp_path / "site.toml", site_text({}, {}), is_watching=False) as edited:
        edited.write(site_text({}, {}) + cluster)

        with pytest.raises(
            ReloadError, match=r'cluster.engine: none -> "redis://\*\*\*@10.0.0.2/0"; .*restart needed'
        ) as refusal:
            await edited.reloader.reload("test")

        changes = (await edited.reloader.diff()).changes
        assert {change.path for change in changes} >= {"cluster.engine", "cluster.secret", "cluster.lease"}
        assert {change.reload for change in changes} == {"fixed"}
        assert secret not in str(refusal.value) + str(changes)
        assert edited.gateway.site.cluster is None
