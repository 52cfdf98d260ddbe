import subprocess
from collections.abc import Iterable

import pytest

from scalesocket.errors import BackendError, RecordTooLong
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Opcode
from scalesocket.wire.routing import Drop, Notice, Routed, Router, make_encoder, make_router
from tests.wire.cuts import every_cut

MiB = 1024 * 1024
ANN = ClientId(7)


def described(routed: Iterable[Routed]) -> list[object]:
    """Return batches as (payloads, opcode, to), and other values unchanged."""
    return [(list(it.payloads), it.opcode, it.to) if isinstance(it, Batch) else it for it in routed]


def text(*payloads: bytes, to: Iterable[int] | None = None) -> tuple[list[bytes], Opcode, frozenset[int] | None]:
    return list(payloads), Opcode.TEXT, None if to is None else frozenset(to)


def messages(routed: Iterable[Routed]) -> list[tuple[Opcode, bytes]]:
    """Return what a client receives, in any batches."""
    return [(it.opcode, payload) for it in routed if isinstance(it, Batch) for payload in it.payloads]


def route_all(router: Router, chunks: Iterable[bytes]) -> list[Routed]:
    return [it for chunk in chunks for it in router.route(chunk)] + list(router.finish())


def output_of(*command: str) -> bytes:
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


# --- Towards clients


def test_all_records_of_a_chunk_are_one_batch_for_everyone() -> None:
    router = make_router("broadcast", max_record=1 * MiB)

    assert described(router.route(b"one\n\ntwo\nthr")) == [text(b"one", b"", b"two")]
    assert described(router.route(b"ee")) == []
    assert described(router.finish()) == [text(b"three")]


@pytest.mark.parametrize(
    ("flags", "command", "expected"),
    [
        ({"routing": "json"}, ("echo", '{"_to": 0}'), [text(b'{"_to": 0}', to=[])]),
        ({"routing": "broadcast"}, ("echo", "foo"), [text(b"foo")]),
        ({"routing": "broadcast", "delimiter": "bc"}, ("echo", "foobar"), [text(b"foo"), text(b"ar\n")]),
        ({"routing": "broadcast", "delimiter": "\0"}, ("printf", r"foo\0bar"), [text(b"foo"), text(b"bar")]),
        ({"routing": "broadcast", "binary": True}, ("echo",), [([b"\n"], Opcode.BINARY, None)]),
        (
            {"routing": "gwsocket", "delimiter": "\n"},
            ("printf", r"\002\000\000\000\001\000\000\000\003\000\000\000abc\n"),
            [text(b"abc", to=[2])],
        ),
    ],
    ids=["frame", "plain", "delimiters", "null", "binary", "gwsocket"],
)
def test_examples_of_the_original_are_routed_like_there(
    flags: dict[str, object], command: tuple[str, ...], expected: list[object]
) -> None:
    router = make_router(**flags, max_record=1 * MiB)  # type: ignore[arg-type]

    assert described(route_all(router, [output_of(*command)])) == expected


@pytest.mark.parametrize("routing", ["broadcast", "json"])
def test_a_character_may_be_split_between_chunks(routing: str) -> None:
    stream = 'grüße 😀\n{"_to":null,"text":"日本"}\n'.encode()

    for chunks in every_cut(stream):
        routed = route_all(make_router(routing, max_record=1 * MiB), chunks)
        assert [payload for _, payload in messages(routed)] == stream.splitlines()
        assert not [it for it in routed if isinstance(it, Notice)]


@pytest.mark.parametrize("routing", ["broadcast", "json"])
def test_invalid_utf8_is_replaced_and_other_records_are_unchanged(routing: str) -> None:
    router = make_router(routing, max_record=1 * MiB)

    routed = list(router.route(b"good\nb\xffd\ngr\xc3\xbcn\n\xc3\n\xbc\n"))

    assert [payload.decode() for _, payload in messages(routed)] == ["good", "b�d", "grün", "�", "�"]
    assert [type(it) for it in routed] == [Notice, Batch]


def test_a_binary_app_sends_each_chunk_as_a_message() -> None:
    router = make_router("broadcast", binary=True, max_record=1 * MiB)

    assert described(router.route(b"\xff\n\x00")) == [([b"\xff\n\x00"], Opcode.BINARY, None)]
    assert described(router.finish()) == []


@pytest.mark.parametrize("routing", ["broadcast", "json"])
def test_records_before_one_that_is_too_long_are_delivered_and_nothing_after_it(routing: str) -> None:
    router = make_router(routing, max_record=8)
    received: list[Routed] = []

    with pytest.raises(RecordTooLong):
        received.extend(router.route(b"one\ntwo\n" + b"x" * 9 + b"\nthree\n"))

    assert described(received) == [text(b"one", b"two")]
    assert list(router.route(b"four\n")) == []
    assert list(router.finish()) == []


@pytest.mark.parametrize("routing", ["broadcast", "json"])
def test_no_empty_batch_precedes_a_record_that_is_too_long(routing: str) -> None:
    router = make_router(routing, max_record=8)
    received: list[Routed] = []

    with pytest.raises(RecordTooLong):
        received.extend(router.route(b"x" * 9 + b"\n"))

    assert received == []


# --- Towards the backend


def test_broadcast_writes_messages_unchanged_with_a_newline_each() -> None:
    encoder = make_encoder("broadcast")

    assert encoder.encode(ANN, [(Opcode.TEXT, b"one"), (Opcode.TEXT, b""), (Opcode.TEXT, b"t\nwo")]) == (b"one\n\nt\nwo\n", ())
    assert encoder.encode_text(ANN, b"hello") == b"hello\n"


@pytest.mark.parametrize(
    ("delimiter", "written"), [(None, b"hi\n"), ("\0", b"hi\0"), ("\0\n", b"hi\n"), (";,", b"hi;"), ("é", "hié".encode())]
)
def test_input_ends_with_a_newline_or_else_the_first_delimiter(delimiter: str | None, written: bytes) -> None:
    encoder = make_encoder("broadcast", delimiter=delimiter)

    assert encoder.encode(ANN, [(Opcode.TEXT, b"hi")]) == (written, ())


def test_input_and_output_may_have_different_delimiters() -> None:
    encoder = make_encoder("broadcast", delimiter="bc", input_end="\n")

    assert encoder.encode(ANN, [(Opcode.TEXT, b"hi")]) == (b"hi\n", ())


def test_json_never_contains_the_delimiter_of_the_input() -> None:
    encoder = make_encoder("json", delimiter="\0", input_end="\n")

    written, drops = encoder.encode(ANN, [(Opcode.TEXT, b'{"a":\n1}')])

    assert (written.count(b"\n"), written[-1:], list(drops)) == (1, b"\n", [])


def test_a_binary_app_receives_bytes_without_a_delimiter() -> None:
    encoder = make_encoder("broadcast", binary=True)

    assert encoder.encode(ANN, [(Opcode.BINARY, b"\xff\x00"), (Opcode.TEXT, b"a")]) == (b"\xff\x00a", ())


@pytest.mark.parametrize("routing", ["broadcast", "json", "gwsocket"])
def test_no_messages_write_nothing(routing: str) -> None:
    written, drops = make_encoder(routing).encode(ANN, [])

    assert (written, list(drops)) == (b"", [])


def test_an_unknown_routing_is_refused() -> None:
    with pytest.raises(ValueError, match="bogus"):
        make_router("bogus", max_record=1)
    with pytest.raises(ValueError, match="bogus"):
        make_encoder("bogus")


def test_errors_of_routing_are_errors_of_the_backend() -> None:
    assert issubclass(RecordTooLong, BackendError)
    assert Drop("reason").reason == "reason"
