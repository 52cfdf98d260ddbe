"""Frames from clients, cut into chunks at every place."""

import tracemalloc
from collections.abc import Iterable, Sequence
from itertools import cycle
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scalesocket.errors import Close, CloseCode
from scalesocket.wire.deflate import deflate, inflate
from scalesocket.wire.frame_reader import FRAMES_PER_FEED, INFLATED_PER_FEED, FrameReader
from scalesocket.wire.frames import Event, Opcode, is_valid_close_code
from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, RSV1, TEXT, close_payload, mask_frame
from tests.wire.cuts import every_cut


def make_reader(**settings: Any) -> FrameReader:
    return FrameReader(**{"max_message": 1000, "binary_as_text": False, **settings})


def read(reader: FrameReader, chunks: Iterable[bytes]) -> list[Event]:
    """Feed chunks up to a close frame or a failure."""
    events: list[Event] = []
    for chunk in chunks:
        events += reader.feed(chunk)
        if reader.failure is not None or (events and events[-1][0] is Opcode.CLOSE):
            break
    return events


def read_everywhere(stream: bytes, **settings: Any) -> tuple[list[Event], Close | None]:
    """Read a stream whole and cut at every place, with the same result."""
    reader = make_reader(**settings)
    whole = read(reader, [stream])
    for chunks in every_cut(stream):
        other = make_reader(**settings)
        assert (read(other, chunks), other.failure) == (whole, reader.failure), chunks
    return whole, reader.failure


@pytest.mark.parametrize("surplus", [-1, 0, 1, 2 * FRAMES_PER_FEED])
def test_many_frames_are_read_in_parts(surplus: int) -> None:
    texts = [b"%d" % number for number in range(FRAMES_PER_FEED + surplus)]
    reader = make_reader()

    parts = [reader.feed(b"".join(map(mask_frame, texts)) + b"\x81")]
    while reader.has_more:
        parts.append(reader.feed(b""))

    assert [len(part) <= FRAMES_PER_FEED for part in parts] == [True] * max(1, -(-len(texts) // FRAMES_PER_FEED))
    assert [payload for part in parts for _, payload in part] == texts
    assert reader.feed(mask_frame(b"the rest")[1:]) == [(Opcode.TEXT, b"the rest")]


def test_many_inflated_messages_are_read_in_parts() -> None:
    message = b"x" * (INFLATED_PER_FEED // 2)
    reader = make_reader(max_message=len(message), inflate=inflate)
    parts = [reader.feed(mask_frame(deflate(message), flags=RSV1) * 8 + mask_frame(b"last"))]
    while reader.has_more:
        parts.append(reader.feed(b""))

    assert [len(part) for part in parts] == [3, 3, 3]
    assert [payload for part in parts for _, payload in part] == [message] * 8 + [b"last"]


def test_fragments_count_as_frames() -> None:
    reader = make_reader(max_message=10_000)
    fragments = (
        mask_frame(b"a", fin=False)
        + mask_frame(b"b", CONTINUATION, fin=False) * 2 * FRAMES_PER_FEED
        + mask_frame(b"c", CONTINUATION)
    )

    assert reader.feed(fragments) == []
    assert reader.has_more
    assert reader.feed(mask_frame(b"next")) == []
    assert reader.feed(b"") == [(Opcode.TEXT, b"a" + b"b" * 2 * FRAMES_PER_FEED + b"c"), (Opcode.TEXT, b"next")]
    assert not reader.has_more


def test_messages_and_control_frames_are_reported_in_order() -> None:
    stream = (
        mask_frame(b"one")
        + mask_frame(b"", PING)
        + mask_frame(b"\xff\x00", BINARY)
        + mask_frame(b"here", PONG)
        + mask_frame(b"x" * 126)
        + mask_frame(b"")
        + mask_frame(close_payload(1000, "bye"), CLOSE)
    )

    events, failure = read_everywhere(stream)

    assert events == [
        (Opcode.TEXT, b"one"),
        (Opcode.PING, b""),
        (Opcode.BINARY, b"\xff\x00"),
        (Opcode.PONG, b"here"),
        (Opcode.TEXT, b"x" * 126),
        (Opcode.TEXT, b""),
        (Opcode.CLOSE, b"\x03\xe8bye"),
    ]
    assert failure is None


def test_fragments_with_control_frames_between_are_one_message() -> None:
    stream = (
        mask_frame(b"a", TEXT, fin=False)
        + mask_frame(b"are you there", PING)
        + mask_frame(b"", CONTINUATION, fin=False)
        + mask_frame(b"b", CONTINUATION, fin=False)
        + mask_frame(b"c", CONTINUATION)
        + mask_frame(b"d")
    )

    events, failure = read_everywhere(stream)

    assert events == [(Opcode.PING, b"are you there"), (Opcode.TEXT, b"abc"), (Opcode.TEXT, b"d")]
    assert failure is None


def test_frames_after_a_close_frame_are_not_read() -> None:
    events, failure = read_everywhere(mask_frame(close_payload(1001), CLOSE) + mask_frame(b"too late") + b"\xff\xff")

    assert events == [(Opcode.CLOSE, b"\x03\xe9")]
    assert failure is None


def test_messages_before_a_failure_are_reported() -> None:
    events, failure = read_everywhere(mask_frame(b"fine") + mask_frame(b"", PING) + b"\x83\x80\0\0\0\0")

    assert events == [(Opcode.TEXT, b"fine"), (Opcode.PING, b"")]
    assert failure == Close(CloseCode.PROTOCOL_ERROR, "reserved opcode 3")


@pytest.mark.parametrize(
    ("stream", "what"),
    [
        (b"\x81\x01x", "must be masked"),
        (b"\x81\x00", "must be masked"),
        (b"\xc1\x80\0\0\0\0", "reserved bit"),
        (b"\xa1\x80\0\0\0\0", "reserved bit"),
        (b"\x91\x80\0\0\0\0", "reserved bit"),
        (b"\xf9\x80\0\0\0\0", "reserved bit"),
        *((bytes((0x80 | opcode, 0x80)) + b"\0\0\0\0", "reserved opcode") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        (mask_frame(b"", PING, fin=False), "must not be fragmented"),
        (mask_frame(b"", CLOSE, fin=False), "must not be fragmented"),
        (mask_frame(b"x" * 126, PING), "longer than 125"),
        (mask_frame(b"x", CONTINUATION), "without a message to continue"),
        (mask_frame(b"x", TEXT, fin=False) + mask_frame(b"x", TEXT), "before the last one was complete"),
        (mask_frame(b"x", TEXT, fin=False) + mask_frame(b"x", BINARY), "before the last one was complete"),
        (mask_frame(b"x") + mask_frame(b"x", CONTINUATION), "without a message to continue"),
        (b"\x81\xfe\x00\x01\0\0\0\0x", "shortest form"),
        (b"\x81\xff\0\0\0\0\0\0\x00\x7e\0\0\0\0", "shortest form"),
        (b"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0", "top bit"),
        (mask_frame(b"\x03", CLOSE), "no valid code"),
        *(
            (mask_frame(close_payload(code), CLOSE), "no valid code")
            for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
        ),
    ],
)
def test_violations_of_the_protocol_fail_with_1002(stream: bytes, what: str) -> None:
    _, failure = read_everywhere(stream)

    assert failure is not None
    assert failure.code == CloseCode.PROTOCOL_ERROR
    assert what in failure.reason


def test_a_header_is_checked_before_its_payload_is_complete() -> None:
    reader = make_reader()

    reader.feed(b"\x81\xff" + (1 << 40).to_bytes(8, "big"))

    assert reader.failure == Close(CloseCode.TOO_BIG, "the message is longer than max_message (1000 bytes)")


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_valid_close_codes_are_accepted(code: int) -> None:
    assert is_valid_close_code(code)
    assert read_everywhere(mask_frame(close_payload(code, "why"), CLOSE))[1] is None


# --- Sizes


def test_a_message_may_be_as_long_as_max_message() -> None:
    assert read_everywhere(mask_frame(b"x" * 100), max_message=100) == ([(Opcode.TEXT, b"x" * 100)], None)


def test_a_longer_message_fails_with_1009() -> None:
    events, failure = read_everywhere(mask_frame(b"fine") + mask_frame(b"x" * 101), max_message=100)

    assert events == [(Opcode.TEXT, b"fine")]
    assert failure == Close(CloseCode.TOO_BIG, "the message is longer than max_message (100 bytes)")


@pytest.mark.parametrize("sizes", [(50, 50), (100, 0), (0, 100), (99, 1), (1,) * 100, (0,) * 20 + (100,)])
def test_fragments_may_be_as_long_as_max_message_together(sizes: Sequence[int]) -> None:
    parts = [b"x" * size for size in sizes]
    first, *middle, last = parts
    stream = mask_frame(first, fin=False)
    stream += b"".join(mask_frame(part, CONTINUATION, fin=False) for part in middle)
    stream += mask_frame(last, CONTINUATION)

    reader = make_reader(max_message=100)

    assert reader.feed(stream) == [(Opcode.TEXT, b"x" * 100)]
    assert reader.failure is None


def test_fragments_that_are_too_long_together_fail_with_1009_at_the_first_that_exceeds_the_limit() -> None:
    reader = make_reader(max_message=100)

    reader.feed(mask_frame(b"x" * 60, fin=False))
    assert reader.failure is None
    reader.feed(mask_frame(b"x" * 41, CONTINUATION, fin=False)[:2])

    assert reader.failure is not None
    assert reader.failure.code == CloseCode.TOO_BIG


def test_tiny_and_empty_fragments_take_no_more_memory_than_their_bytes() -> None:
    reader = make_reader(max_message=1_000_000)
    tiny = mask_frame(b"ab", CONTINUATION, fin=False) + mask_frame(b"", CONTINUATION, fin=False)
    reader.feed(mask_frame(b"", fin=False))

    tracemalloc.start()
    for _ in range(20):
        reader.feed(tiny * 100)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 50_000
    assert reader.feed(mask_frame(b"", CONTINUATION)) == [(Opcode.TEXT, b"ab" * 2_000)]


def test_a_large_frame_in_small_chunks_is_copied_once() -> None:
    reader = make_reader(max_message=10_000_000)
    stream = mask_frame(b"x" * 3_000_000)

    events = read(reader, (stream[at : at + 1000] for at in range(0, len(stream), 1000)))

    assert events == [(Opcode.TEXT, b"x" * 3_000_000)]


# --- UTF-8

GOOD = "häßlich 日本語 🎲".encode()
BAD = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe6\x97", b"ok\x80"]


def test_a_character_may_be_split_between_fragments() -> None:
    for at in range(len(GOOD) + 1):
        stream = mask_frame(GOOD[:at], fin=False) + mask_frame(GOOD[at:], CONTINUATION)
        reader = make_reader()
        assert reader.feed(stream) == [(Opcode.TEXT, GOOD)]
        assert reader.failure is None


@pytest.mark.parametrize("bad", BAD)
def test_text_that_is_not_utf8_fails_with_1007(bad: bytes) -> None:
    assert read_everywhere(mask_frame(b"fine") + mask_frame(bad)) == (
        [(Opcode.TEXT, b"fine")],
        Close(CloseCode.INVALID_DATA, "a text message is not valid UTF-8"),
    )


def test_invalid_text_fails_at_the_first_invalid_fragment() -> None:
    reader = make_reader()

    reader.feed(mask_frame(b"fine ", fin=False))
    assert reader.failure is None
    reader.feed(mask_frame(b"\xff", CONTINUATION, fin=False))

    assert reader.failure is not None
    assert reader.failure.code == CloseCode.INVALID_DATA


LONG = [b"x" * 200, b"x" * 70_000]
"""They make headers of 8 and 14 bytes."""


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0", b"\xed\xa0", b"\xf4\x90", b"ok\x80"])
@pytest.mark.parametrize("rest", [b"rest", *LONG])
def test_invalid_text_fails_before_its_frame_is_complete(bad: bytes, rest: bytes) -> None:
    frame = mask_frame(GOOD + bad + rest)
    until_bad = len(frame) - len(rest)
    for size in (1, 2, 7, until_bad):
        reader = make_reader(max_message=100_000)
        events = read(reader, (frame[at : min(at + size, until_bad)] for at in range(0, until_bad, size)))
        assert (events, reader.failure) == ([], Close(CloseCode.INVALID_DATA, "a text message is not valid UTF-8"))


def test_invalid_text_in_an_incomplete_fragment_fails_with_the_character_before_it() -> None:
    for last, is_valid in ((GOOD[2:], True), (b"\xff", False), (b"ok", False)):
        reader = make_reader()
        reader.feed(mask_frame(GOOD[:2], fin=False))  # ends within a character
        reader.feed(mask_frame(b"between", PING))
        reader.feed(mask_frame(last + b"rest", CONTINUATION)[:-4])

        assert (reader.failure is None) is is_valid


def test_incomplete_frames_that_are_not_text_are_not_checked() -> None:
    bad = b"\xff" * 20
    for first, settings in (
        (mask_frame(bad, BINARY), {}),
        (mask_frame(bad, PING), {}),
        (mask_frame(b"a", BINARY, fin=False) + mask_frame(bad, CONTINUATION), {}),
        (mask_frame(bad, flags=RSV1), {"inflate": inflate, "binary_as_text": True}),
        (mask_frame(b"", fin=False, flags=RSV1) + mask_frame(bad, CONTINUATION), {"inflate": inflate}),
    ):
        reader = make_reader(**settings)

        reader.feed(first[:-4])

        assert reader.failure is None


def test_binary_messages_to_an_app_that_takes_text_fail_early_too() -> None:
    reader = make_reader(binary_as_text=True)

    reader.feed(mask_frame(b"\xffrest", BINARY)[:-4])

    assert reader.failure is not None


@given(st.text(max_size=400).map(str.encode), st.lists(st.integers(1, 200), min_size=1, max_size=30))
@example("€".encode() * 60, [100])
def test_valid_text_in_any_chunks_is_never_refused(text: bytes, sizes: list[int]) -> None:
    stream = mask_frame(text[: len(text) // 2], fin=False) + mask_frame(text[len(text) // 2 :], CONTINUATION) + mask_frame(text)
    reader = make_reader(max_message=10_000)

    events: list[Event] = []
    for size in cycle(sizes):
        events += reader.feed(stream[:size])
        stream = stream[size:]
        if not stream:
            break

    assert (events, reader.failure) == ([(Opcode.TEXT, text)] * 2, None)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_text_that_ends_within_a_character_fails_however_it_is_cut(missing: int) -> None:
    frame = mask_frame((b"x" * 150 + "🎲".encode())[:-missing])
    for at in range(1, len(frame)):
        reader = make_reader()
        assert read(reader, [frame[:at], frame[at:]]) == []
        assert reader.failure == Close(CloseCode.INVALID_DATA, "a text message is not valid UTF-8")


def test_an_incomplete_character_at_the_end_of_the_last_fragment_fails() -> None:
    reader = make_reader()

    reader.feed(mask_frame("日".encode()[:2], fin=False) + mask_frame(b"", CONTINUATION))

    assert reader.failure is not None
    assert reader.failure.code == CloseCode.INVALID_DATA


def test_a_close_reason_must_be_utf8() -> None:
    _, failure = read_everywhere(mask_frame(b"\x03\xe8\xff", CLOSE))

    assert failure is not None
    assert failure.code == CloseCode.INVALID_DATA


def test_a_binary_message_is_reported_as_text_if_the_app_takes_text() -> None:
    assert read_everywhere(mask_frame(GOOD, BINARY), binary_as_text=True) == ([(Opcode.TEXT, GOOD)], None)
    assert read_everywhere(mask_frame(b"\xff", BINARY), binary_as_text=True)[1] == Close(
        CloseCode.INVALID_DATA, "a text message is not valid UTF-8"
    )


def test_a_fragmented_binary_message_is_reported_as_text_too() -> None:
    stream = mask_frame(GOOD[:5], BINARY, fin=False) + mask_frame(GOOD[5:], CONTINUATION)

    assert read_everywhere(stream, binary_as_text=True) == ([(Opcode.TEXT, GOOD)], None)


# --- permessage-deflate


def test_a_deflated_message_is_inflated() -> None:
    stream = mask_frame(deflate(GOOD), TEXT, flags=RSV1) + mask_frame(b"plain") + mask_frame(deflate(b"\xff"), BINARY, flags=RSV1)

    events, failure = read_everywhere(stream, inflate=inflate)

    assert events == [(Opcode.TEXT, GOOD), (Opcode.TEXT, b"plain"), (Opcode.BINARY, b"\xff")]
    assert failure is None


def test_a_deflated_message_may_be_fragmented_with_rsv1_in_the_first_fragment() -> None:
    payload = deflate(GOOD * 5)
    for at in range(len(payload)):
        reader = make_reader(inflate=inflate)
        stream = mask_frame(payload[:at], TEXT, fin=False, flags=RSV1) + mask_frame(payload[at:], CONTINUATION)
        assert reader.feed(stream) == [(Opcode.TEXT, GOOD * 5)]


def test_a_compression_bomb_fails_with_1009_without_being_inflated_whole() -> None:
    bomb = deflate(b"\0" * 50_000_000)

    events, failure = read_everywhere(mask_frame(deflate(b"x" * 1001), flags=RSV1), inflate=inflate)
    reader = make_reader(max_message=len(bomb), inflate=inflate)
    reader.feed(mask_frame(bomb, flags=RSV1))

    assert events == []
    assert failure is not None
    assert failure.code == CloseCode.TOO_BIG
    assert reader.failure is not None
    assert reader.failure.code == CloseCode.TOO_BIG


def test_max_message_counts_inflated_bytes_even_if_deflate_made_the_message_longer(random_bytes: bytes) -> None:
    payload = deflate(random_bytes)
    assert len(payload) > len(random_bytes)

    events, failure = read_everywhere_coarse(mask_frame(payload, BINARY, flags=RSV1), max_message=len(random_bytes))

    assert events == [(Opcode.BINARY, random_bytes)]
    assert failure is None


def read_everywhere_coarse(stream: bytes, *, max_message: int) -> tuple[list[Event], Close | None]:
    reader = make_reader(max_message=max_message, inflate=inflate)
    events = read(reader, (stream[at : at + 5000] for at in range(0, len(stream), 5000)))
    return events, reader.failure


@pytest.fixture
def random_bytes() -> bytes:
    return Random(1).randbytes(100_000)


@pytest.mark.parametrize("damaged", [b"\xff\xff\xff", b"\x07", b"not deflated at all"])
def test_damaged_data_fails_with_1007(damaged: bytes) -> None:
    _, failure = read_everywhere(mask_frame(damaged, flags=RSV1), inflate=inflate)

    assert failure is not None
    assert failure.code == CloseCode.INVALID_DATA


@pytest.mark.parametrize(
    "stream",
    [
        mask_frame(b"", PING, flags=RSV1),
        mask_frame(b"x", fin=False) + mask_frame(b"x", CONTINUATION, flags=RSV1),
        mask_frame(deflate(b"x"), flags=RSV1 | 0x20),
    ],
)
def test_rsv1_is_allowed_in_the_first_frame_of_a_message_only(stream: bytes) -> None:
    _, failure = read_everywhere(stream, inflate=inflate)

    assert failure is not None
    assert failure.code == CloseCode.PROTOCOL_ERROR


# --- Anything

MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.just(Opcode.TEXT), st.text(max_size=300).map(str.encode)),
        st.tuples(st.just(Opcode.BINARY), st.binary(max_size=300)),
        st.tuples(st.sampled_from((Opcode.PING, Opcode.PONG)), st.binary(max_size=125)),
    ),
    max_size=12,
)


@given(MESSAGES, st.lists(st.integers(1, 200), max_size=40), st.data())
def test_any_messages_are_read_from_any_fragments_and_chunks(
    messages: list[Event], sizes: list[int], data: st.DataObject
) -> None:
    stream = b""
    for opcode, payload in messages:
        pieces = [payload]
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            at = data.draw(st.integers(0, len(payload)))
            pieces = data.draw(st.sampled_from(([payload], [payload[:at], payload[at:]], [b"", payload[:at], payload[at:]])))
        for index, piece in enumerate(pieces):
            kind = opcode if index == 0 else Opcode.CONTINUATION
            stream += mask_frame(piece, kind, fin=index == len(pieces) - 1, mask=data.draw(st.binary(min_size=4, max_size=4)))
    chunks = []
    for size in sizes:
        chunks.append(stream[:size])
        stream = stream[size:]
    chunks.append(stream)

    reader = make_reader()

    assert read(reader, filter(None, chunks)) == messages
    assert reader.failure is None


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_random_bytes_give_events_or_a_failure(chunks: list[bytes]) -> None:
    reader = make_reader(inflate=inflate)

    events = read(reader, filter(None, chunks))

    for opcode, payload in events:
        assert len(payload) <= 1000
        if opcode is Opcode.TEXT:
            payload.decode()
    assert reader.failure is None or reader.failure.code in (1002, 1007, 1009)
