import struct
from collections.abc import Iterable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.errors import BackendError, RecordTooLong, RoutingError
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Opcode
from scalesocket.wire.gwsocket import CUT_SHORT
from scalesocket.wire.routing import Notice, Routed, Router, make_encoder, make_router
from tests.wire.cuts import cut, every_cut

MiB = 1024 * 1024
TEXT, BINARY = 1, 2


def framed(to: int, kind: int, payload: bytes, *, size: int | None = None, end: bytes = b"", order: str = "<") -> bytes:
    return struct.pack(order + "III", to, kind, len(payload) if size is None else size) + payload + end


def receive(router: Router, chunks: Iterable[bytes]) -> tuple[list[tuple[int | None, Opcode, bytes]], str | None]:
    """Return the messages with their recipients, in any batches, and the error at the end."""
    routed: list[Routed] = []
    error = None
    try:
        for chunk in chunks:
            routed.extend(router.route(chunk))
        routed.extend(router.finish())
    except BackendError as raised:
        error = str(raised)
    return [
        (next(iter(it.to)) if it.to else None, it.opcode, payload)
        for it in routed
        if isinstance(it, Batch)
        for payload in it.payloads
    ], error


STREAM = [(2, TEXT, b"abc"), (2, TEXT, b""), (2, BINARY, b"\xff\n\x00"), (0, TEXT, "grüße".encode()), (3, TEXT, b"\n")]
RECEIVED = [(to or None, Opcode(kind), payload) for to, kind, payload in STREAM]


@pytest.mark.parametrize("delimiter", [None, "\n", "\0;", "é"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_messages_keep_their_type_and_bounds_at_every_cut(delimiter: str | None, order: Literal["little", "big"]) -> None:
    end = (delimiter or "")[-1:].encode()
    stream = b"".join(framed(*it, end=end, order="<" if order == "little" else ">") for it in STREAM)

    for chunks in every_cut(stream):
        router = make_router("gwsocket", byte_order=order, delimiter=delimiter, max_record=1 * MiB)
        assert receive(router, chunks) == (RECEIVED, None)


def test_consecutive_messages_of_one_client_and_type_share_a_batch() -> None:
    router = make_router("gwsocket", max_record=1 * MiB)

    routed = router.route(b"".join(framed(*it) for it in STREAM))

    assert [list(it.payloads) for it in routed if isinstance(it, Batch)] == [
        [b"abc", b""],
        [b"\xff\n\x00"],
        ["grüße".encode()],
        [b"\n"],
    ]


def test_a_message_is_delivered_before_its_delimiter_is_received() -> None:
    router = make_router("gwsocket", delimiter="\n", max_record=1 * MiB)

    assert receive(router, [framed(2, TEXT, b"abc")]) == ([(2, Opcode.TEXT, b"abc")], None)


@pytest.mark.parametrize("kind", [0, 3, 256, 1 << 24])
def test_an_invalid_header_ends_the_room_after_the_messages_before_it(kind: int) -> None:
    good, bad = framed(2, TEXT, b"abc"), framed(2, kind, b"invalid")

    for chunks in every_cut(good + bad + good):
        received, error = receive(make_router("gwsocket", max_record=1 * MiB), chunks)
        assert received == [(2, Opcode.TEXT, b"abc")]
        assert error is not None
        assert "unknown type" in error


def test_a_header_in_the_other_byte_order_is_invalid() -> None:
    router = make_router("gwsocket", max_record=1 * MiB)

    with pytest.raises(RoutingError):
        list(router.route(framed(2, TEXT, b"abc", order=">")))


def test_a_missing_delimiter_ends_the_room_after_the_messages_before_it() -> None:
    for chunks in every_cut(framed(2, TEXT, b"abc") + framed(2, TEXT, b"def")):
        received, error = receive(make_router("gwsocket", delimiter="\n", max_record=1 * MiB), chunks)
        assert received == [(2, Opcode.TEXT, b"abc")]
        assert error is not None
        assert "delimiter" in error


def test_a_payload_that_is_too_long_ends_the_room_before_it_is_buffered() -> None:
    router = make_router("gwsocket", max_record=3)

    assert list(router.route(framed(2, TEXT, b"abc")))
    with pytest.raises(RecordTooLong):
        list(router.route(framed(2, TEXT, b"", size=4)))
    assert list(router.route(framed(2, TEXT, b"abc"))) == []
    assert list(router.finish()) == []


@pytest.mark.parametrize("kept", range(1, 15))
def test_an_incomplete_message_at_the_end_of_the_output_is_dropped(kept: int) -> None:
    router = make_router("gwsocket", max_record=1 * MiB)

    assert list(router.route(framed(2, TEXT, b"abc")[:kept])) == []
    assert list(router.finish()) == [CUT_SHORT]
    assert list(router.finish()) == []


def test_invalid_utf8_is_replaced() -> None:
    router = make_router("gwsocket", max_record=1 * MiB)

    routed = list(router.route(framed(2, TEXT, b"b\xffd") + framed(2, TEXT, b"good")))

    assert [type(it) for it in routed] == [Notice, Batch]
    assert [payload for it in routed if isinstance(it, Batch) for payload in it.payloads] == ["b�d".encode(), b"good"]


@given(
    messages=st.lists(
        st.tuples(st.text().map(str.encode).map(lambda it: (Opcode.TEXT, it)) | st.binary().map(lambda it: (Opcode.BINARY, it)))
    ),
    places=st.lists(st.integers(0)),
    order=st.sampled_from(["little", "big"]),
    delimiter=st.sampled_from([None, "\n"]),
)
def test_messages_come_back_from_a_backend_that_echoes_its_input(
    messages: list[tuple[tuple[Opcode, bytes]]],
    places: list[int],
    order: Literal["little", "big"],
    delimiter: str | None,
) -> None:
    said = [message for (message,) in messages]
    written, drops = make_encoder("gwsocket", byte_order=order, delimiter=delimiter).encode(ClientId(9), said)

    router = make_router("gwsocket", byte_order=order, delimiter=delimiter, max_record=1 * MiB)

    assert receive(router, cut(written, places)) == ([(9, kind, payload) for kind, payload in said], None)
    assert not drops


def test_a_long_payload_in_many_small_chunks_is_read_in_linear_time() -> None:
    router = make_router("gwsocket", max_record=16 * MiB)
    stream = framed(0, BINARY, bytes(8 * MiB))

    received, error = receive(router, (stream[at : at + 64] for at in range(0, len(stream), 64)))

    assert (received, error) == ([(None, Opcode.BINARY, bytes(8 * MiB))], None)


def test_a_join_message_is_a_text_message_of_the_client_it_describes() -> None:
    encoder = make_encoder("gwsocket", delimiter="\n")

    assert encoder.encode_text(ClientId(9), b"hi") == framed(9, TEXT, b"hi", end=b"\n")
