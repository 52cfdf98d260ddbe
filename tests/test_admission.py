"""Which room a path means, and who may come in: pure decisions, before any upgrade."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.admission import (
    Refusal,
    allows_origin,
    check_host,
    check_name,
    find_room,
    is_trusted,
    seen_through_proxies,
)
from scalesocket.config.model import App, Server, Site
from scalesocket.wire.handshake import Request


def site_with(**apps: dict[str, Any]) -> Site:
    return Site(apps={name: App(name=name, command=("cat",), **settings) for name, settings in apps.items()})


def request_for(
    path: str = "/chat/one",
    *,
    peer: tuple[str, int] | None = ("192.0.2.1", 1234),
    local: tuple[str, int] | None = None,
    secure: bool = False,
    version: str = "1.1",
    proxied: bool = False,
    **headers: str | None,
) -> Request:
    """A request with these headers (`_` for `-`; None for none), and `Host: example.org` unless they have another."""
    fields = {"host": "example.org", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(
        method="GET",
        target=path,
        path=path,
        query="",
        headers={name: value for name, value in fields.items() if value is not None},
        peer=peer,
        local=local,
        is_secure=secure,
        http_version=version,
        is_proxied=proxied,
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


# --- Hosts

LOOPBACK = ("127.0.0.1", 9000)


def refused(request: Request, *, is_upgrade: bool = True, **server: Any) -> int | None:
    """The status of the refusal, if it is one."""
    refusal = check_host(Server.model_validate(server), request, is_upgrade=is_upgrade)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["a, b", "a@b", "a/b?x", "", "http://a", None])
@pytest.mark.parametrize("local", [LOOPBACK, ("192.0.2.9", 80), None])
def test_a_host_that_is_none_is_400_anywhere(host: str | None, local: tuple[str, int] | None) -> None:
    assert refused(request_for(host=host, local=local)) == 400
    assert refused(request_for(host=host, local=local), is_upgrade=False) == 400
    assert refused(request_for(host=host, local=local, version="2"), hosts=["a"]) == 400


def test_a_client_of_http_1_0_may_name_no_host() -> None:
    request = request_for(host=None, version="1.0", local=LOOPBACK)

    assert refused(request) is None
    assert refused(request, hosts=["example.org"]) == 421
    assert refused(request._replace(headers={"origin": "http://evil.example"})) == 421


@pytest.mark.parametrize("mark", ["origin", "sec_fetch_site", "accept_language"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", None),
        ("LOCALHOST.:9000", None),
        ("chat.localhost:9000", None),
        ("127.0.0.1:9000", None),
        ("127.1.2.3", None),
        ("[::1]:9000", None),
        ("[::ffff:127.0.0.1]:9000", None),
        ("0.0.0.0:9000", None),
        ("[::]:9000", None),
        ("evil.example:9000", 421),
        ("localhost.evil.example", 421),
        ("evillocalhost", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.168.1.5:9000", 421),
        ("[2001:db8::1]:9000", 421),
        ("127.1", 421),
    ],
)
def test_a_browser_names_the_loopback_when_it_reaches_it(mark: str, host: str, status: int | None) -> None:
    request = request_for(host=host, local=LOOPBACK, **{mark: "" if mark == "accept_language" else f"http://{host}"})

    assert refused(request) == status
    assert refused(request, is_upgrade=False) == status


@pytest.mark.parametrize("local", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
def test_any_address_of_the_loopback_is_guarded(local: str) -> None:
    assert refused(request_for(host="evil.example", local=(local, 9000), origin="http://evil.example")) == 421


@pytest.mark.parametrize("local", ["192.0.2.9", "2001:db8::9", "fe80::1%eth0", None])
def test_what_is_not_the_loopback_is_reached_by_any_name(local: str | None) -> None:
    request = request_for(host="play.example", local=local and (local, 9000), origin="http://play.example")

    assert refused(request) is None


def test_a_client_that_is_no_browser_may_use_any_name() -> None:
    assert refused(request_for(host="probe", local=LOOPBACK)) is None


@pytest.mark.parametrize("header", ["forwarded", "via", "x_real_ip", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto"])
@pytest.mark.parametrize("is_upgrade", [True, False])
def test_a_proxy_on_the_same_machine_may_use_any_name(header: str, is_upgrade: bool) -> None:
    request = request_for(host="play.example", local=LOOPBACK, origin="https://play.example", **{header: "192.0.2.1"})

    assert refused(request, is_upgrade=is_upgrade) is None


def test_a_connection_with_a_proxy_header_may_use_any_name() -> None:
    request = request_for(host="play.example:9000", local=LOOPBACK, origin="http://play.example:9000", proxied=True)

    assert refused(request, is_upgrade=False) is None


def test_a_page_cannot_pose_as_a_proxy() -> None:
    """`fetch` may set X-Forwarded-For; the port is then the one it connected to. An upgrade it can give no header."""
    request = request_for(host="evil.example:9000", local=LOOPBACK, accept_language="en", x_forwarded_for="192.0.2.1")
    on_80 = request_for(host="evil.example", local=("127.0.0.1", 80), accept_language="en", forwarded="for=192.0.2.1")
    on_443 = request_for(host="evil.example", local=("::1", 443), accept_language="en", x_real_ip="192.0.2.1", secure=True)

    assert [refused(forged, is_upgrade=False) for forged in (request, on_80, on_443)] == [421, 421, 421]
    assert refused(request, is_upgrade=True) is None
    assert refused(request_for(**request.headers, local=LOOPBACK, via="1.1 proxy"), is_upgrade=False) is None


def test_a_trusted_proxy_may_be_reached_at_the_same_port() -> None:
    request = request_for(
        host="play.example:9000", peer=("127.0.0.1", 1), local=LOOPBACK, accept_language="en", x_forwarded_for="192.0.2.1"
    )

    assert refused(request, is_upgrade=False, trusted_proxies=["127.0.0.1"]) is None
    assert refused(request, is_upgrade=False, trusted_proxies=["192.0.2.0/24"]) == 421


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("play.example", None),
        ("PLAY.example.:9000", None),
        ("a.games.example", None),
        ("a.b.games.example", None),
        ("[::1]:9000", None),
        ("192.0.2.9", None),
        ("games.example", 421),
        ("evilgames.example", 421),
        ("localhost", 421),
        ("evil.example", 421),
        ("a, b", 400),
    ],
)
def test_listed_hosts_are_the_only_ones(host: str, status: int | None) -> None:
    hosts = ["Play.Example", "*.games.example", "[0:0::1]", "192.0.2.9"]

    for request in (request_for(host=host), request_for(host=host, local=LOOPBACK, x_forwarded_for="192.0.2.1")):
        assert refused(request, hosts=hosts) == status
        assert refused(request, hosts=hosts, is_upgrade=False) == status


def test_a_star_admits_every_host() -> None:
    assert refused(request_for(host="evil.example", local=LOOPBACK, origin="http://evil.example"), hosts=["*"]) is None


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
