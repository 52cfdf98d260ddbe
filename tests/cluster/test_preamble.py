"""What two nodes send each other first."""

import secrets
import time
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalesocket.auth.identity import Identity
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
from scalesocket.placement.facts import Who
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
    with monkeypatch.context() as patch:
        patch.setattr("scalesocket.cluster.preamble.VERSION", VERSION + 1)
        new = encode_preamble(SECRET, NONCE, Kind.HAND_OVER, b"")

    answers = [check(preamble) for preamble in (long, unknown, old, new)]
    assert answers == [Answer.TOO_LONG, Answer.INVALID, Answer.TOO_OLD, Answer.INVALID]


def test_a_newer_listener_decides_itself_whether_it_takes_this_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("scalesocket.cluster.preamble.VERSION", VERSION + 1)
        greeting = encode_greeting(NONCE)

    assert parse_greeting(greeting) == NONCE


def test_a_greeting_has_the_nonce() -> None:
    assert parse_greeting(encode_greeting(NONCE)) == NONCE


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (b"HTTP/1.1 400 Bad Req", "it is not a node of a cluster"),
        (encode_greeting(NONCE)[:-1], "it is not a node of a cluster"),
        (b"ssp\0" + NONCE, "it has version 0 of the protocol between nodes, this node 1"),
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


RECORDED: Final = bytes.fromhex(
    "929ba56661637473a470616972a463686174a5636166c3a9009aa3474554b32f636861742f6c6f6262793f6e616d653dc3a9"
    "ab2f636861742f6c6f626279a86e616d653de2988382a4686f7374a96c6f63616c686f7374a7782d6c6174696ea2c3bf92a3"
    "3a3a31cd126792a33a3a31cd2328c3a3312e31c3a46162633dc0c0c400c005"
)
"""A payload of version 1."""


def test_a_payload_that_was_recorded_can_still_be_read() -> None:
    facts = msgspec.structs.replace(make_facts(), kind=FactsKind.PAIR, generation=0)

    assert decode_handed(RECORDED) == Handed(facts, 5)


def test_fields_that_another_version_adds_are_ignored_and_those_that_it_has_not_have_defaults() -> None:
    facts, fence = msgspec.msgpack.decode(RECORDED)
    expected = decode_handed(RECORDED)

    newer = msgspec.msgpack.encode([[*facts, "new", {"more": 1}], fence, 0.0, "new"])
    older = msgspec.msgpack.encode([facts[:-2], fence])

    assert decode_handed(newer) == decode_handed(older) == expected


def test_a_payload_that_another_version_has_changed_is_none() -> None:
    facts, fence = msgspec.msgpack.decode(RECORDED)
    request = facts.index(next(field for field in facts if isinstance(field, list)))

    longer = [*facts[:request], [*facts[request], "new"], *facts[request + 1 :]]
    unknown = [facts[0], "teleport", *facts[2:]]

    for changed in (longer, unknown):
        assert decode_handed(msgspec.msgpack.encode([changed, fence])) is None


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0], ids=["an hour behind", "equal", "an hour ahead"])
def test_a_credential_expires_after_the_time_that_was_left_where_it_was_verified(ahead: float) -> None:
    there = time.time() + ahead
    who = Who.of(Identity(user="ann", method="jwt", expires_at=there + 60))
    facts = msgspec.structs.replace(make_facts(who=who), kind=FactsKind.PAIR)

    handed = decode_handed(encode_handed(Handed(facts, 5, there)))

    assert handed is not None
    assert handed.facts.who is not None
    assert handed.facts.who.expires_at == pytest.approx(time.time() + 60, abs=5)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_other_payloads_are_none(payload: bytes) -> None:
    assert decode_handed(payload) is None


def test_the_own_descriptor_of_a_client_cannot_be_handed_to_another_node() -> None:
    assert decode_handed(encode_handed(Handed(make_facts(), 5))) is None
