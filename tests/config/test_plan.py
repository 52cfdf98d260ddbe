"""The difference between two sites."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.keys import Reload, keys_of
from scalesocket.config.model import App, History, Log, Server, Site, Tls
from scalesocket.config.plan import find_changes, make_plan, with_live_changes
from scalesocket.config.values import FROM_FILE
from tests.key_edits import APP_EDITS

FROM_COMMAND_LINE: dict[str, Any] = {"start_delay": 1.0, "input_end": "\n"}
"""Values of the fields that are not keys of the site file."""
EDITED = [key for key, (_, after) in APP_EDITS.items() if after is not None]


def other(key: str) -> Any:
    """Return a value of a field of an app that differs from its default, as the model has it."""
    if key in FROM_COMMAND_LINE:
        return FROM_COMMAND_LINE[key]
    before, after = APP_EDITS[key]
    parsed = [
        getattr(App.model_validate({"name": "chat", "command": ["cat"], key: value}, context=FROM_FILE), key)
        for value in (before, after)
        if value is not None
    ]
    return next(value for value in reversed(parsed) if value != getattr(app(), key))


def app(name: str = "chat", **keys: Any) -> App:
    return App(name=name, **{"command": ["cat"], **keys})


def site(*apps: App, server: Server | None = None) -> Site:
    return Site(server=server or Server(), apps={app.name: app for app in apps})


def test_equal_sites_have_no_changes() -> None:
    plan = make_plan(site(app()), site(app()).model_copy(update={"path": Path("/elsewhere.toml")}))

    assert plan.is_empty
    assert str(plan) == "nothing changed"


def test_apps_are_added_changed_and_removed() -> None:
    old = site(app("same"), app("gone"), app("edited"))
    new = site(app("new"), app("same"), app("edited", max_rooms=5, command=["sort"]), server=Server(log=Log(level="debug")))

    plan = make_plan(old, new)

    assert [added.name for added in plan.added] == ["new"]
    assert [removed.name for removed in plan.removed] == ["gone"]
    [changed] = plan.changed
    assert [(change.key, change.reload) for change in changed.changes] == [("command", Reload.NEXT), ("max_rooms", Reload.LIVE)]
    assert not changed.is_live_only
    assert str(plan) == "added new; removed gone; changed edited (command, max_rooms); server: log"


def test_a_change_is_shown_as_the_file_writes_it() -> None:
    old = app(idle_timeout=0.25)
    new = app(idle_timeout=90, max_message=64_000, history=History(), rooms=("a", "b"))

    assert [str(change) for change in find_changes(old, new)] == [
        'history: none -> { size = 64, keep = "all", persist = false, max_bytes = "4MiB" } (next)',
        'rooms: none -> ["a", "b"] (live)',
        'idle_timeout: "250ms" -> "1m30s" (live)',
        'max_message: "1MiB" -> "64kB" (live)',
    ]


def test_a_change_of_a_secret_is_shown_without_the_secret() -> None:
    old = Server(tls=Tls(certificate=Path("/a.pem"), key=Path("/a.key")))
    new = Server(tls=Tls(certificate=Path("/a.pem"), key=Path("/b.key")))

    [change] = find_changes(old, new)

    assert str(change) == (
        'tls: { certificate = "/a.pem", key = "***" } -> { certificate = "/a.pem", key = "*** (another)" } (live)'
    )


@pytest.mark.parametrize("key", [*EDITED, *FROM_COMMAND_LINE])
def test_an_edit_of_a_key_is_a_change_of_its_class(key: str) -> None:
    old, new = app(), app(**{key: other(key)})

    [change] = find_changes(old, new)

    assert (change.key, change.reload) == (key, keys_of(App)[key].reload)


def test_every_field_of_an_app_is_tested() -> None:
    assert {*EDITED, *FROM_COMMAND_LINE} == set(keys_of(App)) - {"name", "tcp", "unix"}


JSON_JOIN, JSON_LEAVE = '{"t":"Join","_from":#ID,"_event":"join"}', '{"t":"Leave","_from":#ID,"_event":"leave"}'


@pytest.mark.parametrize(
    ("old", "new", "join", "leave"),
    [
        ({"routing": "broadcast"}, {"routing": "json"}, None, None),
        ({"routing": "json"}, {"routing": "broadcast"}, JSON_JOIN, JSON_LEAVE),
        ({"routing": "broadcast"}, {"routing": "json", "join_message": "hi"}, "hi", None),
        ({"routing": "json"}, {"routing": "broadcast", "join_message": ""}, None, JSON_LEAVE),
        ({"routing": "json", "join_message": "hi"}, {"routing": "json"}, JSON_JOIN, JSON_LEAVE),
        ({"routing": "broadcast", "join_message": "hi"}, {"routing": "json"}, None, None),
    ],
)
def test_a_running_room_gets_written_join_and_leave_messages_and_keeps_the_defaults_of_its_routing(
    old: dict[str, Any], new: dict[str, Any], join: str | None, leave: str | None
) -> None:
    running = with_live_changes(app(**old), app(**new))
    running = with_live_changes(running, app(**new, max_rooms=5))

    assert (running.join_message, running.leave_message) == (join, leave)


def test_default_join_and_leave_messages_of_another_routing_apply_to_new_rooms() -> None:
    changes = find_changes(app(), app(routing="json"))

    assert [(change.key, change.reload) for change in changes] == [
        ("routing", Reload.NEXT),
        ("join_message", Reload.NEXT),
        ("leave_message", Reload.NEXT),
    ]


@given(st.sets(st.sampled_from([*EDITED, *FROM_COMMAND_LINE])))
def test_a_running_room_gets_the_live_keys_and_keeps_the_others(keys: set[str]) -> None:
    old = app()
    new = old.model_copy(update={key: other(key) for key in keys})

    merged = with_live_changes(old, new)

    assert {change.reload for change in find_changes(old, merged)} <= {Reload.LIVE}
    assert Reload.LIVE not in {change.reload for change in find_changes(merged, new)}
