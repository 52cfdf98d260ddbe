"""What two nodes send each other first."""

import secrets

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalesocket.cluster.handed import Handed, decode_handed, encode_handed
from scalesocket.cluster.preamble import (
    HEAD_SIZE,
    MAX_PAYLOAD,
    VERSION,
    Answer,
    Kind,
    PreambleError,
    check_head,
    encode_greeting,
    encode_preamble,
    parse_greeting,
    parse_head,
)
from scalesocket.placement.facts import Kind as FactsKind
from tests.placement.test_facts import make_facts

SECRET = b"secret"
NONCE = secrets.token_bytes(16)


def check(preamble: bytes, secret: bytes = SECRET, nonce: bytes = NONCE) -> Answer | None:
    return check_head(parse_head(preamble[:HEAD_SIZE]), secret, nonce)


@settings(deadline=None)
@given(st.sampled_from(Kind), st.binary(max_size=200))
def test_a_preamble_is_read_as_it_was_written(kind: Kind, payload: bytes) -> None:
    preamble = encode_preamble(SECRET, NONCE, kind, payload)

    assert check(preamble) is None
    head = parse_head(preamble)
    assert (head.version, head.kind, head.size) == (VERSION, kind, len(payload))
    assert head.is_of(preamble[HEAD_SIZE:])


@settings(deadline=None)
@given(st.integers(0, HEAD_SIZE - 1), st.integers(1, 255))
def test_any_change_of_the_head_makes_the_signature_wrong(at: int, change: int) -> None:
    preamble = bytearray(encode_preamble(SECRET, NONCE, Kind.HAND_OVER, b"payload"))
    preamble[at] ^= change

    assert check(bytes(preamble)) is Answer.WRONG_SIGNATURE


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(1, 255))
def test_any_change_of_the_payload_is_noticed(at: int, change: int) -> None:
    preamble = encode_preamble(SECRET, NONCE, Kind.HAND_OVER, b"payload")
    payload = bytearray(preamble[HEAD_SIZE:])
    payload[at] ^= change

    assert not parse_head(preamble).is_of(bytes(payload))


def test_another_secret_and_another_nonce_make_the_signature_wrong() -> None:
    preamble = encode_preamble(SECRET, NONCE, Kind.REQUEST, b"payload")

    assert check(preamble, secret=b"other") is Answer.WRONG_SIGNATURE
    assert check(preamble, nonce=bytes(16)) is Answer.WRONG_SIGNATURE


def test_a_signed_head_with_an_old_version_an_unknown_kind_or_too_long_a_payload_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = encode_preamble(SECRET, NONCE, Kind.HAND_OVER, bytes(MAX_PAYLOAD[Kind.HAND_OVER] + 1))
    unknown = encode_preamble(SECRET, NONCE, 9, b"")  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr("scalesocket.cluster.preamble.VERSION", VERSION - 1)
        old = encode_preamble(SECRET, NONCE, Kind.HAND_OVER, b"")

    assert [check(preamble) for preamble in (long, unknown, old)] == [Answer.TOO_LONG, Answer.INVALID, Answer.TOO_OLD]


def test_a_greeting_has_the_nonce() -> None:
    assert parse_greeting(encode_greeting(NONCE)) == NONCE


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (b"HTTP/1.1 400 Bad Req", "it is no node of a cluster"),
        (encode_greeting(NONCE)[:-1], "it is no node of a cluster"),
        (b"ssp\0" + NONCE, "it has version 0 of the protocol between nodes, and this node 1"),
    ],
    ids=["HTTP", "too short", "another version"],
)
def test_other_greetings_are_errors(greeting: bytes, error: str) -> None:
    with pytest.raises(PreambleError, match=error):
        parse_greeting(greeting)


def test_facts_arrive_with_their_fence_and_without_the_generation_of_the_sender() -> None:
    facts = msgspec.structs.replace(make_facts(), kind=FactsKind.PAIR)
    assert facts.generation == 3

    handed = decode_handed(encode_handed(Handed(facts, 5)))

    assert handed == Handed(msgspec.structs.replace(facts, generation=0), 5)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_other_payloads_are_none(payload: bytes) -> None:
    assert decode_handed(payload) is None


def test_the_own_descriptor_of_a_client_cannot_be_handed_to_another_node() -> None:
    assert decode_handed(encode_handed(Handed(make_facts(), 5))) is None
