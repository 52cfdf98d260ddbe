"""The opening handshake (RFC 6455 4.2)."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire import handshake
from scalesocket.wire.handshake import (
    HandshakeError,
    Request,
    accept_key,
    check_upgrade,
    choose_subprotocol,
    has_token,
    offered_subprotocols,
    parse_request,
)

GOOD = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def head_of(request_line: str = "GET /chat HTTP/1.1", **changes: str | None) -> bytes:
    """The head of a valid upgrade, except for these fields: `_` stands for `-`, None for no field."""
    fields: dict[str, str | None] = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return "\r\n".join([request_line, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]).encode(
        "latin-1"
    )


def parse(head: bytes, **facts: Any) -> Request:
    return parse_request(head, **{"peer": ("192.0.2.1", 1234), "local": ("192.0.2.9", 80), "is_secure": False, **facts})


def test_the_example_key_of_the_rfc_gets_its_response() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_request_head_is_parsed() -> None:
    request = parse(b"GET /chat/caf%C3%A9?name=ann&x=1?2 HTTP/1.1\r\nHost:  example.org \r\nX-One: a\r\nx-one:b\r\nX-Empty:")

    assert request.method == "GET"
    assert request.target == "/chat/caf%C3%A9?name=ann&x=1?2"
    assert request.path == "/chat/caf%C3%A9"
    assert request.query == "name=ann&x=1?2"
    assert request.headers == {"host": "example.org", "x-one": "a, b", "x-empty": ""}
    assert request.remote == "192.0.2.1:1234"
    assert request.http_version == "1.1"


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("http://example.org/chat/one?x=1", "example.org", "/chat/one", "x=1"),
        ("https://example.org:8443/chat", "example.org:8443", "/chat", ""),
        ("ws://example.org/chat/one", "example.org", "/chat/one", ""),
        ("wss://[::1]:9000/chat/one?a=b?c/d", "[::1]:9000", "/chat/one", "a=b?c/d"),
        ("WS://Example.org/chat", "Example.org", "/chat", ""),
        ("http://example.org", "example.org", "/", ""),
        ("http://example.org?x=1", "example.org", "/", "x=1"),
        ("http://example.org?x=/1", "example.org", "/", "x=/1"),
        ("http://example.org/?", "example.org", "/", ""),
        ("http://user@example.org/chat", "user@example.org", "/chat", ""),  # not checked here
        ("http:///chat", "", "/chat", ""),
    ],
)
def test_a_target_in_absolute_form_replaces_host(target: str, host: str, path: str, query: str) -> None:
    request = parse(f"GET {target} HTTP/1.1\r\nHost: other.example".encode())

    assert (request.headers["host"], request.path, request.query) == (host, path, query)
    assert request.target == target


@pytest.mark.parametrize("fields", [b"", b"\r\nHost: a, b", b"\r\nHost:"])
def test_an_absolute_target_does_not_replace_a_missing_or_invalid_host(fields: bytes) -> None:
    request = parse(b"GET http://example.org/chat HTTP/1.1" + fields)

    assert request.headers.get("host") != "example.org"
    assert request.path == "/chat"


def test_a_query_in_utf_8_is_decoded() -> None:
    assert parse("GET /chat?name=zoë HTTP/1.1".encode()).query == "name=zoë"
    assert parse(b"GET /chat?name=\xff HTTP/1.1").query == "name=\ufffd"


def test_an_empty_line_before_the_request_is_skipped() -> None:
    assert parse(b"\r\nGET /chat HTTP/1.1\r\nHost: one").path == "/chat"


def test_long_field_names_are_not_cached() -> None:
    before = len(handshake._names)

    for number in range(10):
        parse(b"GET /chat HTTP/1.1\r\n%s%d: x" % (b"n" * 1000, number))

    assert len(handshake._names) == before


def test_a_client_on_a_unix_socket_has_no_address() -> None:
    assert parse(head_of(), peer=None).remote == ""


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET",
        b"GET /chat",
        b"GET  /chat HTTP/1.1",
        b"GET /chat HTTP/1.1 more",
        b"GET /chat HTTP/1.1\r\nno colon",
        b"GET /chat HTTP/1.1\r\n: no name",
        b"GET /chat HTTP/1.1\r\nbad name: x",
        b"GET /chat HTTP/1.1\r\nname : x",
        b"GET /chat HTTP/1.1\r\nname: x\r\n folded",
        b"GET /chat HTTP/1.1\r\nname: x\ny: z",
        b"GET /chat HTTP/1.1\r\nname: x\ry: z",
        b"GET /ch\x00at HTTP/1.1",
        b"GET /chat HTTP/1.1\r\nname: \x00",
        b"GET /chat HTTP/1.1\r\nn\xe4me: x",
        b"GET /chat 1.1",
        b"GET chat HTTP/1.1",
        b"GET ftp://example.org/chat HTTP/1.1",
        b"GET http:/chat HTTP/1.1",
        b"GET http://example.org/chat#one HTTP/1.1",
        b"GET example.org:80 HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET /chat HTTP/1.1\r\nHost: one\r\nhost: two",
    ],
)
def test_a_malformed_head_is_400(head: bytes) -> None:
    with pytest.raises(HandshakeError) as refused:
        parse(head)

    assert refused.value.status == 400


@given(st.binary(max_size=300))
def test_any_bytes_give_a_request_or_400(head: bytes) -> None:
    with suppress(HandshakeError):
        assert "?" not in parse(head).path


def test_a_valid_upgrade_returns_its_key() -> None:
    assert check_upgrade(parse(head_of())) == GOOD["Sec-WebSocket-Key"]


def test_the_short_key_of_the_quick_start_of_the_original_is_accepted() -> None:
    assert check_upgrade(parse(head_of(Sec_WebSocket_Key="SGVsbG8sIHdvcmxkIQ=="))) == "SGVsbG8sIHdvcmxkIQ=="


@pytest.mark.parametrize("connection", ["upgrade", "keep-alive, Upgrade", "Upgrade,keep-alive", "UPGRADE"])
def test_upgrade_may_be_one_of_several_tokens(connection: str) -> None:
    assert check_upgrade(parse(head_of(Connection=connection))) == GOOD["Sec-WebSocket-Key"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (head_of("POST /chat HTTP/1.1"), 400),
        (head_of("GET /chat HTTP/1.0"), 400),
        (head_of(Content_Length="20"), 400),
        (head_of(Transfer_Encoding="chunked"), 400),
        (head_of(Host=None), 400),
        (head_of(Connection=None), 400),
        (head_of(Connection="keep-alive"), 400),
        (head_of(Connection="no-upgrade"), 400),
        (head_of(Sec_WebSocket_Key=None), 400),
        (head_of(Sec_WebSocket_Key=""), 400),
        (head_of(Sec_WebSocket_Key="not base64!"), 400),
        (head_of(Sec_WebSocket_Version=None), 426),
        (head_of(Sec_WebSocket_Version="8"), 426),
        (head_of(Sec_WebSocket_Version="13, 8"), 426),
    ],
)
def test_invalid_upgrades_are_refused(head: bytes, status: int) -> None:
    with pytest.raises(HandshakeError) as refused:
        check_upgrade(parse(head))

    assert refused.value.status == status


def test_tokens_are_compared_whole_and_without_case() -> None:
    assert has_token("WebSocket", "websocket")
    assert has_token("h2c, websocket", "websocket")
    assert not has_token("websockets", "websocket")
    assert not has_token("", "websocket")


# --- Subprotocols


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("mqtt", ("mqtt",)),
        ("mqttv5.0, mqtt", ("mqttv5.0", "mqtt")),
        ("  b ,\ta,c\t", ("b", "a", "c")),
        ("a, A", ("a", "A")),
        (",a,,b,", ("a", "b")),
        ("!#$%&'*+-.^_`|~09azAZ", ("!#$%&'*+-.^_`|~09azAZ",)),
    ],
)
def test_offered_subprotocols_keep_their_order(value: str, names: tuple[str, ...]) -> None:
    assert offered_subprotocols(value) == names


@pytest.mark.parametrize(
    "value",
    ["", " ", ",", "a b", "a;b", 'a, "b"', "a/b", "chat@1", "a\x7f", "caf\xe9", "a, a", "bearer, eyJ0=, bearer", "a\xa0"],
)
def test_an_invalid_list_of_subprotocols_is_400(value: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        offered_subprotocols(value)

    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("offered", "listed", "chosen"),
    [
        (["a", "b"], [], None),
        (["a", "b"], ["c"], None),
        (["a", "b"], ["b", "a"], "a"),
        (["x", "b"], ["a", "b"], "b"),
        (["MQTT"], ["mqtt"], None),
        (["a", "b"], ["*"], "a"),
        (["x", "b"], ["b", "*"], "x"),
        (["*"], ["a"], None),
    ],
)
def test_the_first_offered_subprotocol_that_is_listed_is_chosen(
    offered: list[str], listed: list[str], chosen: str | None
) -> None:
    assert choose_subprotocol(offered, listed) == chosen
