"""From a path to an app and a room, or to a refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.admission.paths import check_name, find_room
from scalesocket.admission.refusals import Refusal
from scalesocket.config.model import Site
from tests.admission.requests import site_with


def found(site: Site, path: str) -> tuple[str, str] | str:
    """App and room, or the reason of the refusal."""
    app, room = find_room(site, path)
    if isinstance(room, Refusal):
        return room.reason
    assert app is not None
    return app.name, room


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/chat/one", ("chat", "one")),
        ("/chat/one/", ("chat", "one")),
        ("/chat/caf%C3%A9", ("chat", "café")),
        ("/chat/a.b-c_d~e", ("chat", "a.b-c_d~e")),
        ("/chat/...", ("chat", "...")),
        ("/chat/api", ("chat", "api")),
        ("/chat", "bad_name"),
        ("/chat/", "bad_name"),
        ("/chat//", "bad_name"),
        ("/chat/one/two", "unknown_app"),
        ("/chat/one//", "unknown_app"),
        ("/chat/.", "bad_name"),
        ("/chat/..", "bad_name"),
        ("/chat/%2E%2E", "bad_name"),
        ("/chat/a%2Fb", "bad_name"),
        ("/chat/a%20b", "bad_name"),
        ("/chat/%C3", "bad_name"),
        ("/chat/%zz", "bad_name"),
        ("/chat/one%0A", "bad_name"),
        ("/ch%61t/one", ("chat", "one")),
        ("/%63%68%61%74/%6fne", ("chat", "one")),
        ("/ch%2561t/one", "unknown_app"),
        ("/chat%2Fone", "unknown_app"),
        ("/ch%zzat/one", "unknown_app"),
        ("/%ffchat/one", "unknown_app"),
        ("/Chat/one", "unknown_app"),
        ("/other/one", "unknown_app"),
        ("/", "unknown_app"),
        ("", "unknown_app"),
        ("*", "unknown_app"),
    ],
)
def test_a_path_names_an_app_and_a_room(path: str, expected: tuple[str, str] | str) -> None:
    assert found(site_with(chat={}), path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/one", ("main", "one")),
        ("/one/", ("main", "one")),
        ("/chat/one", ("chat", "one")),
        ("/ch%61t/one", ("chat", "one")),
        ("/ch%61t", "bad_name"),
        ("/o%6ee", ("main", "one")),
        ("/chat", "bad_name"),
        ("/main", ("main", "main")),
        ("/main/one", "unknown_app"),
        ("/", "bad_name"),
        ("/api", "reserved_name"),
        ("/api/rooms", "unknown_app"),
        ("/metrics", "reserved_name"),
        ("/favicon.ico", "reserved_name"),
    ],
)
def test_paths_of_no_other_app_belong_to_the_app_at_the_root(path: str, expected: tuple[str, str] | str) -> None:
    assert found(site_with(main={"mount": "/"}, chat={}), path) == expected


def test_the_names_of_other_apps_are_reserved_at_the_root() -> None:
    site = site_with(main={"mount": "/"}, chat={})

    refusal = check_name(site, site.apps["main"], "chat")

    assert refusal is not None
    assert (refusal.status, refusal.reason) == (400, "reserved_name")


@pytest.mark.parametrize(("name", "reason"), [("red", None), ("green", "not_listed"), ("re d", "bad_name")])
def test_only_listed_rooms_are_admitted(name: str, reason: str | None) -> None:
    site = site_with(chat={"rooms": ("red",)})

    refusal = check_name(site, site.apps["chat"], name)

    assert (refusal and refusal.reason) == reason


@given(st.text(max_size=50))
def test_any_path_names_a_room_or_is_refused(path: str) -> None:
    site = site_with(chat={}, main={"mount": "/"})

    app, room = find_room(site, "/" + path)

    assert isinstance(room, Refusal) or (app is not None and room not in {"", ".", ".."} and "/" not in room)
