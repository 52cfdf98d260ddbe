"""The hosts that requests may name, and the origins that may connect."""

from typing import Any

import pytest

from scalesocket.admission.hosts import allows_origin, check_host
from scalesocket.config.model import Server
from scalesocket.wire.handshake import Request
from tests.admission.requests import request_for, site_with

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
def test_pages_of_the_same_host_and_port_may_connect(host: str, origin: str, is_allowed: bool) -> None:
    app = site_with(chat={}).apps["chat"]

    assert allows_origin(app, request_for(host=host, origin=origin)) is is_allowed


def test_clients_without_an_origin_may_connect() -> None:
    assert allows_origin(site_with(chat={"origins": ("https://play.example",)}).apps["chat"], request_for())


# --- Hosts

LOOPBACK = ("127.0.0.1", 9000)


def refused(request: Request, *, is_upgrade: bool = True, **server: Any) -> int | None:
    """The status of the refusal, if the request is refused."""
    refusal = check_host(Server.model_validate(server), request, is_upgrade=is_upgrade)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["a, b", "a@b", "a/b?x", "", "http://a", None])
@pytest.mark.parametrize("local", [LOOPBACK, ("192.0.2.9", 80), None])
def test_an_invalid_host_is_refused_with_400_at_any_address(host: str | None, local: tuple[str, int] | None) -> None:
    assert refused(request_for(host=host, local=local)) == 400
    assert refused(request_for(host=host, local=local), is_upgrade=False) == 400
    assert refused(request_for(host=host, local=local, version="2"), hosts=["a"]) == 400


def test_an_http_1_0_request_needs_no_host() -> None:
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
def test_browsers_must_name_the_loopback_to_connect_to_it(mark: str, host: str, status: int | None) -> None:
    request = request_for(host=host, local=LOOPBACK, **{mark: "" if mark == "accept_language" else f"http://{host}"})

    assert refused(request) == status
    assert refused(request, is_upgrade=False) == status


@pytest.mark.parametrize("local", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
def test_every_loopback_address_is_protected(local: str) -> None:
    assert refused(request_for(host="evil.example", local=(local, 9000), origin="http://evil.example")) == 421


@pytest.mark.parametrize("local", ["192.0.2.9", "2001:db8::9", "fe80::1%eth0", None])
def test_other_addresses_accept_any_host(local: str | None) -> None:
    request = request_for(host="play.example", local=local and (local, 9000), origin="http://play.example")

    assert refused(request) is None


def test_other_clients_than_browsers_may_name_any_host() -> None:
    assert refused(request_for(host="probe", local=LOOPBACK)) is None


@pytest.mark.parametrize("header", ["forwarded", "via", "x_real_ip", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto"])
@pytest.mark.parametrize("is_upgrade", [True, False])
def test_a_proxy_on_the_same_machine_may_name_any_host(header: str, is_upgrade: bool) -> None:
    request = request_for(host="play.example", local=LOOPBACK, origin="https://play.example", **{header: "192.0.2.1"})

    assert refused(request, is_upgrade=is_upgrade) is None


def test_a_connection_with_a_proxy_header_may_name_any_host() -> None:
    request = request_for(host="play.example:9000", local=LOOPBACK, origin="http://play.example:9000", proxied=True)

    assert refused(request, is_upgrade=False) is None


def test_a_page_cannot_imitate_a_proxy() -> None:
    """With `fetch` a page can set X-Forwarded-For, but not Host, which has the port of the connection; in an upgrade, neither."""
    request = request_for(host="evil.example:9000", local=LOOPBACK, accept_language="en", x_forwarded_for="192.0.2.1")
    on_80 = request_for(host="evil.example", local=("127.0.0.1", 80), accept_language="en", forwarded="for=192.0.2.1")
    on_443 = request_for(host="evil.example", local=("::1", 443), accept_language="en", x_real_ip="192.0.2.1", secure=True)

    assert [refused(forged, is_upgrade=False) for forged in (request, on_80, on_443)] == [421, 421, 421]
    assert refused(request, is_upgrade=True) is None
    assert refused(request_for(**request.headers, local=LOOPBACK, via="1.1 proxy"), is_upgrade=False) is None


def test_a_trusted_proxy_may_name_the_port_of_the_connection() -> None:
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
def test_only_listed_hosts_are_served(host: str, status: int | None) -> None:
    hosts = ["Play.Example", "*.games.example", "[0:0::1]", "192.0.2.9"]

    for request in (request_for(host=host), request_for(host=host, local=LOOPBACK, x_forwarded_for="192.0.2.1")):
        assert refused(request, hosts=hosts) == status
        assert refused(request, hosts=hosts, is_upgrade=False) == status


def test_a_star_allows_every_host() -> None:
    assert refused(request_for(host="evil.example", local=LOOPBACK, origin="http://evil.example"), hosts=["*"]) is None
