"""The difference between two sites."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.keys import Reload, keys_of
from scalesocket.config.model import App, History, Limits, Log, Rate, Server, Site, Tls
from scalesocket.config.plan import find_changes, make_plan, with_live_changes

OTHER: dict[str, Any] = {
    "mount": "/",
    "command": ("sort",),
    "port": "9001-9002",
    "start_timeout": 1.0,
    "start_delay": 1.0,
    "cwd": Path("/"),
    "env": {"A": "1"},
    "pass_env": (),
    "user": "nobody",
    "group": "nobody",
    "limits": Limits(open_files=5),
    "routing": "gwsocket",
    "byte_order": "big",
    "binary": True,
    "delimiter": ";",
    "input_end": "\n",
    "join_message": "hi",
    "leave_message": "bye",
    "client_keys": ("_to",),
    "history": History(),
    "max_record": 5,
    "rooms": ("a",),
    "room_pattern": ".*",
    "max_rooms": 5,
    "max_clients": 5,
    "max_connections": 5,
    "idle_timeout": 5.0,
    "client_idle_timeout": 5.0,
    "max_lifetime": 5.0,
    "ping_interval": 5.0,
    "ping_timeout": 5.0,
    "restart": "always",
    "stop_signal": 9,
    "stop_timeout": 5.0,
    "oneshot": True,
    "max_message": 5,
    "rate": Rate(messages=5.0),
    "send_buffer": 5,
    "slow_client": "drop",
    "stall_timeout": 5.0,
    "compression": True,
    "origins": ("*",),
    "subprotocols": ("*",),
    "static": Path("/"),
    "static_headers": {"X-Robots-Tag": "none"},
}
"""Another value for every key but the name and the other targets."""


def app(name: str = "chat", **keys: Any) -> App:
    return App(name=name, **{"command": ["cat"], **keys})


def site(*apps: App, server: Server | None = None) -> Site:
    return Site(server=server or Server(), apps={app.name: app for app in apps})


def test_equal_sites_need_nothing() -> None:
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


def test_a_changed_secret_is_a_change_that_shows_no_secret() -> None:
    old = Server(tls=Tls(certificate=Path("/a.pem"), key=Path("/a.key")))
    new = Server(tls=Tls(certificate=Path("/a.pem"), key=Path("/b.key")))

    [change] = find_changes(old, new)

    assert str(change) == ('tls: { certificate = "/a.pem", key = "***" } -> { certificate = "/a.pem", key = "***" } (live)')


@pytest.mark.parametrize("key", OTHER)
def test_an_edit_to_any_key_is_a_change_of_its_class(key: str) -> None:
    old, new = app(), app(**{key: OTHER[key]})

    [change] = find_changes(old, new)

    assert (change.key, change.reload) == (key, keys_of(App)[key].reload)


def test_every_key_of_an_app_is_tried() -> None:
    assert set(OTHER) == set(keys_of(App)) - {"name", "tcp", "unix"}


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
def test_a_running_room_takes_join_and_leave_messages_that_are_written_and_keeps_the_defaults_of_its_routing(
    old: dict[str, Any], new: dict[str, Any], join: str | None, leave: str | None
) -> None:
    running = with_live_changes(app(**old), app(**new))
    running = with_live_changes(running, app(**new, max_rooms=5))

    assert (running.join_message, running.leave_message) == (join, leave)


def test_join_and_leave_messages_that_come_with_another_routing_are_for_new_rooms() -> None:
    changes = find_changes(app(), app(routing="json"))

    assert [(change.key, change.reload) for change in changes] == [
        ("routing", Reload.NEXT),
        ("join_message", Reload.NEXT),
        ("leave_message", Reload.NEXT),
    ]


@given(st.sets(st.sampled_from(sorted(OTHER))))
def test_a_running_room_gets_the_live_keys_and_keeps_the_others(keys: set[str]) -> None:
    old = app()
    new = old.model_copy(update={key: getattr(app(**{key: OTHER[key]}), key) for key in keys})

    merged = with_live_changes(old, new)

    assert {change.reload for change in find_changes(old, merged)} <= {Reload.LIVE}
    assert Reload.LIVE not in {change.reload for change in find_changes(merged, new)}
