"""Which room a path means, and who may come in: pure decisions, before any upgrade."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.admission import Refusal, allows_origin, check_name, find_room, is_trusted, seen_through_proxies
from scalesocket.config.model import App, Site
from scalesocket.wire.handshake import Request


def site_with(**apps: dict[str, Any]) -> Site:
    return Site(apps={name: App(name=name, command=("cat",), **settings) for name, settings in apps.items()})


def request_for(
    path: str = "/chat/one", *, peer: tuple[str, int] | None = ("192.0.2.1", 1234), secure: bool = False, **headers: str
) -> Request:
    fields = {"host": "example.org", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(
        method="GET",
        target=path,
        path=path,
        query="",
        headers=fields,
        peer=peer,
        local=None,
        is_secure=secure,
        http_version="1.1",
    )


def found(site: Site, path: str) -> tuple[str, str] | str:
    """App and room, or the reason of the refusal."""
    app, room = find_room(site, path)
    if isinstance(room, Refusal):
        return room.reason
    assert app is not None
    return app.name, room


# --- Paths


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
def test_the_app_at_the_root_has_what_no_other_app_has(path: str, expected: tuple[str, str] | str) -> None:
    assert found(site_with(main={"mount": "/"}, chat={}), path) == expected


def test_the_names_of_other_apps_are_reserved_at_the_root() -> None:
    site = site_with(main={"mount": "/"}, chat={})

    refusal = check_name(site, site.apps["main"], "chat")

    assert refusal is not None
    assert (refusal.status, refusal.reason) == (400, "reserved_name")


@pytest.mark.parametrize(("name", "reason"), [("red", None), ("green", "not_listed"), ("re d", "bad_name")])
def test_a_list_of_rooms_is_the_only_rooms(name: str, reason: str | None) -> None:
    site = site_with(chat={"rooms": ("red",)})

    refusal = check_name(site, site.apps["chat"], name)

    assert (refusal and refusal.reason) == reason


@given(st.text(max_size=50))
def test_any_path_is_a_room_or_a_refusal(path: str) -> None:
    site = site_with(chat={}, main={"mount": "/"})

    app, room = find_room(site, "/" + path)

    assert isinstance(room, Refusal) or (app is not None and room not in {"", ".", ".."} and "/" not in room)


# --- Origins


@pytest.mark.parametrize(
    ("host", "origin", "is_allowed"),
    [
        ("example.org", "http://example.org", True),
        ("example.org", "https://example.org", True),
        ("example.org:80", "http://example.org", True),
        ("example.org", "http://example.org:80", True),
        ("example.org:8080", "http://example.org:8080", True),
        ("EXAMPLE.org", "http://example.ORG", True),
        ("[::1]:9000", "http://[::1]:9000", True),
        ("example.org:8080", "http://example.org", False),
        ("example.org", "http://evil.example", False),
        ("example.org", "http://example.org.evil.example", False),
        ("example.org", "http://user@evil.example", False),
        ("example.org", "null", False),
        ("", "null", False),
        ("", "", False),
        ("example.org", "", False),
        ("example.org", "file://", False),
        ("example.org", "http://[", False),
        ("example.org", "http://example.org:port", False),
    ],
)
def test_the_same_origin_is_the_same_host_and_port(host: str, origin: str, is_allowed: bool) -> None:
    app = site_with(chat={}).apps["chat"]

    assert allows_origin(app, request_for(host=host, origin=origin)) is is_allowed


def test_a_client_without_an_origin_is_no_browser() -> None:
    assert allows_origin(site_with(chat={"origins": ("https://play.example",)}).apps["chat"], request_for())


# --- Proxies

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", True), ("fd00::1", True), ("fd00::1%eth0", True), ("192.0.2.1", False), ("rubbish", False), ("", False)],
)
def test_an_address_is_trusted_where_a_network_holds_it(address: str, expected: bool) -> None:
    assert is_trusted(address, TRUSTED) is expected


def test_an_ipv4_address_is_itself_also_on_an_ipv6_socket() -> None:
    assert is_trusted("::ffff:10.1.2.3", TRUSTED)


def test_a_trusted_proxy_speaks_for_its_client() -> None:
    request = request_for(peer=("10.0.0.1", 5), x_forwarded_for="192.0.2.7", x_forwarded_proto="https")

    seen = seen_through_proxies(request, TRUSTED)

    assert seen.peer == ("192.0.2.7", 0)
    assert seen.is_secure


def test_a_stranger_speaks_for_itself() -> None:
    request = request_for(peer=("192.0.2.1", 5), x_forwarded_for="192.0.2.7", x_forwarded_proto="https")

    assert seen_through_proxies(request, TRUSTED) is request


def test_a_proxy_on_a_unix_socket_is_trusted_where_any_is() -> None:
    request = request_for(peer=None, x_forwarded_for="192.0.2.7")

    assert seen_through_proxies(request, TRUSTED).peer == ("192.0.2.7", 0)
    assert seen_through_proxies(request, ()).peer is None


def test_a_proxy_that_says_nothing_of_its_client_is_the_client() -> None:
    request = request_for(peer=("10.0.0.1", 5), secure=True)

    assert seen_through_proxies(request, TRUSTED) == request
