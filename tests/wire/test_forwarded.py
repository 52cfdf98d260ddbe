"""Clients reported by proxies: Forwarded (RFC 7239), X-Forwarded-For, and the PROXY protocol."""

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.forwarded import ProxyHeaderError, find_client, parse_proxy_header, starts_proxy_header


def is_trusted(address: str) -> bool:
    return ip_address(address) in ip_network("10.0.0.0/8")


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:4711", ("192.0.2.1", 4711)),
        ("192.0.2.1, 10.0.0.1", ("192.0.2.1", 0)),
        ("192.0.2.1, 10.0.0.1, 10.0.0.2", ("192.0.2.1", 0)),
        ("198.51.100.7, 192.0.2.1, 10.0.0.1", ("192.0.2.1", 0)),  # the first address was written by the client
        ("10.0.0.3, 10.0.0.1", ("10.0.0.3", 0)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("192.0.2.1:99999999", ("192.0.2.1", 0)),
        ("invalid, 10.0.0.1", ("10.0.0.1", 0)),
        ("invalid", None),
        ("", None),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_trusted_proxy(chain: str, client: tuple[str, int] | None) -> None:
    assert find_client({"x-forwarded-for": chain}, is_trusted)[0] == client


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("for=192.0.2.1", ("192.0.2.1", 0)),
        ('For="192.0.2.1:4711"', ("192.0.2.1", 4711)),
        ('for="[2001:db8::1]:80";proto=https;by=10.0.0.1', ("2001:db8::1", 80)),
        ("for=198.51.100.7, for=192.0.2.1;proto=http, for=10.0.0.1", ("192.0.2.1", 0)),
        ('for="_hidden", for=10.0.0.1', ("10.0.0.1", 0)),
        ("for=unknown", None),
        ("proto=https", None),
        ("for=192.0.2.1 for=192.0.2.2", None),
        ('for="192.0.2.1', None),
    ],
)
def test_the_client_is_read_from_forwarded(forwarded: str, client: tuple[str, int] | None) -> None:
    assert find_client({"forwarded": forwarded}, is_trusted)[0] == client


def test_forwarded_and_x_forwarded_for_must_agree() -> None:
    """A proxy that sets one of them passes the other on unchanged."""
    agreed = {"forwarded": "for=192.0.2.1;proto=https", "x-forwarded-for": "192.0.2.1"}
    forged = {"forwarded": "for=192.0.2.9;proto=https", "x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "http"}

    assert find_client(agreed, is_trusted) == (("192.0.2.1", 0), "https")
    assert find_client(forged, is_trusted) == (None, None)


@pytest.mark.parametrize(
    ("headers", "proto"),
    [
        ({"forwarded": "for=192.0.2.1;proto=HTTPS, for=10.0.0.1;proto=http"}, "https"),
        ({"forwarded": "for=192.0.2.9;proto=https, for=192.0.2.1;proto=http"}, "http"),  # the client wrote the first
        ({"forwarded": "for=192.0.2.1"}, None),
        ({"x-forwarded-for": "192.0.2.1, 10.0.0.1", "x-forwarded-proto": "https, http"}, "https"),
        ({"x-forwarded-for": "192.0.2.9, 192.0.2.1", "x-forwarded-proto": "https, http"}, "http"),
        ({"x-forwarded-for": "192.0.2.1, 10.0.0.1", "x-forwarded-proto": "https"}, "https"),
        ({"x-forwarded-proto": "https"}, "https"),
        ({}, None),
    ],
)
def test_the_scheme_is_that_of_the_client(headers: dict[str, str], proto: str | None) -> None:
    assert find_client(headers, is_trusted)[1] == proto


@given(st.text(max_size=100))
def test_any_text_gives_a_client_or_none(text: str) -> None:
    for name in ("forwarded", "x-forwarded-for"):
        client, _ = find_client({name: text}, is_trusted)
        assert client is None or ip_address(client[0])


# --- The PROXY protocol


def version_2(command: int, family: int, addresses: bytes) -> bytes:
    return b"\r\n\r\n\x00\r\nQUIT\n" + bytes((0x20 | command, family)) + struct.pack("!H", len(addresses)) + addresses


TCP4 = bytes((192, 0, 2, 1, 192, 0, 2, 9)) + struct.pack("!HH", 4711, 80)
TCP6 = ip_address("2001:db8::1").packed + ip_address("2001:db8::9").packed + struct.pack("!HH", 4711, 80)

HEADERS = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 80\r\n", ("192.0.2.1", 4711)),
    (b"PROXY TCP6 2001:db8::1 2001:db8::9 4711 80\r\n", ("2001:db8::1", 4711)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (version_2(1, 0x11, TCP4), ("192.0.2.1", 4711)),
    (version_2(1, 0x21, TCP6), ("2001:db8::1", 4711)),
    (version_2(1, 0x11, TCP4 + b"\x04\x00\x03abc"), ("192.0.2.1", 4711)),
    (version_2(0, 0x00, b""), None),
    (version_2(1, 0x31, b"\0" * 216), None),
]


@pytest.mark.parametrize(("header", "client"), HEADERS)
def test_a_proxy_header_has_the_client_and_its_own_length(header: bytes, client: tuple[str, int] | None) -> None:
    assert starts_proxy_header(header)
    assert parse_proxy_header(header) == (len(header), client)
    assert parse_proxy_header(header + b"GET / HTTP/1.1") == (len(header), client)


@pytest.mark.parametrize("header", [header for header, _ in HEADERS])
def test_an_incomplete_proxy_header_is_recognized(header: bytes) -> None:
    for at in range(1, len(header)):
        assert starts_proxy_header(header[:at])
        assert parse_proxy_header(header[:at]) is None


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.9 4711\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.9 4711 80\r\n",
        b"PROXY TCP4 nobody 192.0.2.9 4711 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.9 port 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.9 -7 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.9 65536 80\r\n",
        b"PROXY " + b"x" * 200,
        version_2(2, 0x11, TCP4),
        version_2(1, 0x11, TCP4[:8]),
        version_2(1, 0x71, TCP4),
        version_2(1, 0x11, b"\0" * 1000),
        b"\r\n\r\n\x00\r\nQUIT\n\x11\x11\x00\x0c" + TCP4,
    ],
)
def test_a_malformed_proxy_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header(header)


def test_a_request_is_not_taken_for_a_proxy_header() -> None:
    assert not starts_proxy_header(b"GET / HTTP/1.1")
    assert not starts_proxy_header(b"PRI * HTTP/2.0")
    assert not starts_proxy_header(b"PROPFIND / HTTP/1.1")
