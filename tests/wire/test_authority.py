"""Hosts in requests, and pages of the same origin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.authority import MAX_AUTHORITY, is_same_origin, parse_authority


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.org", ("example.org", None)),
        ("example.org:8080", ("example.org", 8080)),
        ("example.org:", ("example.org", None)),
        ("EXAMPLE.org", ("example.org", None)),
        ("localhost.", ("localhost", None)),
        ("my_app-1:80", ("my_app-1", 80)),
        ("xn--mller-kva.example", ("xn--mller-kva.example", None)),
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        ("[0:0:0:0:0:0:0:1]", ("::1", None)),
        ("[2001:DB8::1]", ("2001:db8::1", None)),
        ("[fe80::1%eth0]:80", ("fe80::1", 80)),
    ],
)
def test_an_authority_has_a_host_and_possibly_a_port(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_authority(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a, b", "a,b", "a b", "a@b", "user:secret@b", "a/b?x", "a/", "a?x", "a#x", "a\\b", "a%62", "é", "*", "a;b"),
        *(":80", ".", "..", "a..b", ".a", "a:port", "a:80:80", "a:-1", "a:65536", "a:000080", "a:８０", "a\n", "a\x00"),
        *("::1", "[::1", "::1]", "[::1]9000", "[127.0.0.1]", "[:]", "[]", "[v1.x]", "[::1%]", "http://a", "a" * 300),
    ],
)
def test_invalid_authorities_are_none(text: str) -> None:
    assert parse_authority(text) is None


@given(st.text(max_size=MAX_AUTHORITY + 10))
def test_any_text_is_an_authority_or_none(text: str) -> None:
    authority = parse_authority(text)

    assert authority is None or (authority.host and not set(authority.host) & set("/?#@,[] "))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.org", "http://example.org"),
        ("example.org", "https://example.org"),
        ("example.org:80", "http://example.org"),
        ("example.org:443", "https://example.org"),
        ("example.org", "http://example.org:80"),
        ("example.org:8080", "https://example.org:8080"),
        ("EXAMPLE.org", "HTTP://example.ORG"),
        ("example.org.", "http://example.org"),
        ("[::1]:9000", "http://[0:0::1]:9000"),
    ],
)
def test_the_same_host_and_port_are_the_same_origin(host: str, origin: str) -> None:
    assert is_same_origin(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        *("ftp://example.org", "ws://example.org", "wss://example.org", "file://example.org", "chrome-extension://example.org"),
        *("moz-extension://example.org", "null", "", "example.org", "//example.org", "://example.org", "http:example.org"),
        *("http://example.org/", "http://example.org/page", "http://example.org?", "http://example.org#"),
        *("http://user@example.org", "http://user:secret@example.org", "http://@example.org"),
        *("http://example.org http://example.org", "http://example.org, http://example.org", "http://example.org "),
        *("http://example.org:8080", "http://example.org:port", "http://example.org:443", "http://example.org.evil.example"),
        *("http://evil.example", "http://[", "http://", "http:///example.org", "http://evil.example\\@example.org"),
    ],
)
def test_other_origins_are_different(origin: str) -> None:
    assert not is_same_origin(origin, "example.org")


@pytest.mark.parametrize("host", ["", "a, b", "user@example.org"])
def test_an_invalid_host_has_no_origin(host: str) -> None:
    assert not is_same_origin(f"http://{host}", host)
