"""What travels with a connection."""

from typing import Any

import msgspec
import pytest

from scalesocket.auth.hook import HookIdentity, Question
from scalesocket.auth.identity import Identity, Role
from scalesocket.placement.facts import Delivery, Facts, Kind, Who, decode_messages, encode_message
from scalesocket.wire.handshake import Request

REQUEST = Request(
    method="GET",
    target="/chat/lobby?name=\xe9",
    path="/chat/lobby",
    query="name=\N{SNOWMAN}",
    headers={"host": "localhost", "x-latin": "\xff"},
    peer=("::1", 4711),
    local=("::1", 9000),
    is_secure=True,
    http_version="1.1",
    is_proxied=True,
)


def make_facts(**more: Any) -> Facts:
    return Facts(kind=Kind.SOCKET, app="chat", room="caf\xe9", generation=3, request=REQUEST, key="abc=", **more)


@pytest.mark.parametrize(
    "message",
    [
        make_facts(),
        make_facts(subprotocol="v1", rest=b"\x81\x00\xff"),
        make_facts(who=Who.of(Identity(user="ann", method="jwt", rooms=("a*",), roles=frozenset({Role.READ}), expires_at=5.5))),
        Facts(kind=Kind.RELAY, app="chat", room="lobby", generation=1, request=REQUEST._replace(peer=None, local=None)),
        Delivery(name="listener", details=b"127.0.0.1:9000"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_arrive_as_they_were_sent(message: Facts | Delivery) -> None:
    assert decode_messages(b"\x91" + encode_message(message)) == [message]


@pytest.mark.parametrize(
    "identity",
    [
        Identity(method="anonymous"),
        Identity(user="ann", method="jwt", rooms=(), roles=frozenset(Role), info='{"team":1}', expires_at=1e9),
        Identity(user="half \ud800", method="jwt", rooms=("\udfff",), info='"\ud800"'),
        HookIdentity(user="ann", method="hook", question=Question(app="chat", room="lobby", body=b"{}", key=b"\x00")),
    ],
    ids=["guest", "user", "surrogates", "hook"],
)
def test_the_identity_of_a_client_arrives_unchanged(identity: Identity) -> None:
    (arrived,) = decode_messages(b"\x91" + encode_message(make_facts(who=Who.of(identity))))

    assert isinstance(arrived, Facts)
    assert arrived.who is not None
    assert arrived.who.identity() == identity
    assert type(arrived.who.identity()) is type(identity)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x80",
        b"\x91\x91\xa5facts",
        b"\x91" + encode_message(make_facts())[:-1],
        b"\x92" + encode_message(make_facts()),
        b"\xc1",
    ],
)
def test_other_bytes_are_an_error(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_messages(text)
