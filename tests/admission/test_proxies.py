"""Trusted proxies and the clients they report."""

from ipaddress import ip_network

import pytest

from scalesocket.admission.proxies import is_trusted, may_name_user, resolve_client
from scalesocket.config.addresses import UNIX_PEERS
from tests.admission.requests import request_for

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", True), ("fd00::1", True), ("fd00::1%eth0", True), ("192.0.2.1", False), ("invalid", False), ("", False)],
)
def test_addresses_in_the_networks_are_trusted(address: str, expected: bool) -> None:
    assert is_trusted(address, TRUSTED) is expected


def test_an_ipv4_address_mapped_to_ipv6_is_trusted_as_ipv4() -> None:
    assert is_trusted("::ffff:10.1.2.3", TRUSTED)


def test_a_trusted_proxy_reports_its_client() -> None:
    request = request_for(peer=("10.0.0.1", 5), x_forwarded_for="192.0.2.7", x_forwarded_proto="https")

    resolved = resolve_client(request, TRUSTED)

    assert resolved.peer == ("192.0.2.7", 0)
    assert resolved.is_secure


def test_reports_of_other_peers_are_ignored() -> None:
    request = request_for(peer=("192.0.2.1", 5), x_forwarded_for="192.0.2.7", x_forwarded_proto="https")

    assert resolve_client(request, TRUSTED) is request


def test_a_proxy_on_a_unix_socket_is_trusted_only_if_trusted_proxies_says_so() -> None:
    request = request_for(peer=None, x_forwarded_for="192.0.2.7, 10.0.0.1", x_forwarded_proto="https")

    resolved = resolve_client(request, (*TRUSTED, UNIX_PEERS))

    assert (resolved.peer, resolved.is_secure) == (("192.0.2.7", 0), True)
    assert may_name_user((UNIX_PEERS,), request)
    for trusted in ((), TRUSTED):
        assert resolve_client(request, trusted) is request
        assert not may_name_user(trusted, request)


def test_unix_sockets_alone_trust_no_address() -> None:
    request = request_for(peer=("127.0.0.1", 5), x_forwarded_for="192.0.2.7")

    assert resolve_client(request, (UNIX_PEERS,)) is request
    assert not is_trusted("unix:", (UNIX_PEERS,))


def test_a_proxy_without_a_report_counts_as_the_client() -> None:
    request = request_for(peer=("10.0.0.1", 5), secure=True)

    assert resolve_client(request, TRUSTED) == request


def test_a_proxy_that_passes_the_bytes_of_its_client_on_may_not_name_the_user() -> None:
    request = request_for(peer=("10.0.0.1", 5), remote_user="ann")

    assert may_name_user(TRUSTED, request)
    assert not may_name_user(TRUSTED, request._replace(is_proxied=True))
