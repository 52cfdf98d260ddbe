"""The filter of HTTP/2 frames: what is passed on, in which pieces, and the limits."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.http2 import (
    MAX_BLOCK,
    MAX_FRAME,
    MAX_OVERHEAD,
    PREFACE,
    ErrorCode,
    Flag,
    FrameFilter,
    FrameType,
    Http2Error,
    encode_frame_header,
    encode_refusal,
)
from tests.wire.cuts import cut, every_cut

OPEN: frozenset[int] = frozenset({1, 3})
"""Streams that are open in these tests."""
ORIGIN = 12
"""A frame type of another RFC."""


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


GET = frame(FrameType.HEADERS, b"\x82\x84\x87", stream=1, flags=Flag.END_HEADERS | Flag.END_STREAM)
LONG_GET = (
    frame(FrameType.HEADERS, b"\x82", stream=1)
    + frame(FrameType.CONTINUATION, b"\x84", stream=1)
    + frame(FrameType.CONTINUATION, b"\x87", stream=1, flags=Flag.END_HEADERS)
)
PRIORITY = frame(FrameType.PRIORITY, bytes(5), stream=1)
UNKNOWN = frame(ORIGIN, b"whatever")
PING = frame(FrameType.PING, bytes(8))
DATA = frame(FrameType.DATA, b"content", stream=1)
PADDED = frame(FrameType.DATA, b"\x03content\0\0\0", stream=1, flags=Flag.PADDED)


def split(*chunks: bytes, streams: Collection[int] = OPEN) -> list[bytes]:
    """Return the pieces of the input after the preface, all received at the same time."""
    frames = FrameFilter(streams, 0.0)
    return [piece for chunk in (PREFACE, *chunks) for piece in frames.split(chunk, 0.0)][1:]


def split_until_cut(chunks: list[bytes]) -> tuple[bytes, str]:
    """Return what is passed on after the preface, and why the connection is closed; empty if it is not."""
    frames, passed = FrameFilter(OPEN, 0.0), b""
    try:
        for chunk in (PREFACE, *chunks):
            for piece in frames.split(chunk, 0.0):
                passed += piece
    except Http2Error as error:
        return passed[len(PREFACE) :], error.message
    return passed[len(PREFACE) :], ""


def test_frames_are_passed_on_as_they_are_at_every_cut() -> None:
    stream = GET + PING + LONG_GET + DATA + PADDED + frame(FrameType.SETTINGS) + frame(FrameType.DATA, stream=1)

    for chunks in every_cut(stream):
        assert b"".join(split(*chunks)) == stream


def test_priority_and_unknown_frames_are_dropped_at_every_cut() -> None:
    stream = PRIORITY + GET + UNKNOWN + PING + PRIORITY + PRIORITY + DATA + UNKNOWN

    for chunks in every_cut(stream):
        assert b"".join(split(*chunks)) == GET + PING + DATA


def test_violations_of_the_protocol_are_left_to_the_library() -> None:
    header_without_end = frame(FrameType.HEADERS, b"\x82", stream=1)
    for stream in (
        header_without_end + UNKNOWN,
        header_without_end + PRIORITY,
        frame(FrameType.PRIORITY, bytes(4), stream=1),
        frame(FrameType.PRIORITY, bytes(5)),
        frame(FrameType.CONTINUATION, b"\x82", stream=1),
    ):
        assert b"".join(split(stream)) == stream


def test_a_piece_has_at_most_one_request() -> None:
    assert split(GET * 3) == [GET] * 3
    assert split(LONG_GET * 3) == [LONG_GET] * 3


def test_the_frames_and_bytes_of_a_piece_are_bounded() -> None:
    pieces = split(PING * 100 + frame(FrameType.DATA, bytes(MAX_FRAME), stream=1) * 4)

    assert all(piece.count(PING) <= 16 and len(piece) < 2 * MAX_FRAME + 1000 for piece in pieces)
    assert len(pieces) >= 10


@pytest.mark.parametrize(
    ("overhead", "cost"),
    [
        pytest.param(PRIORITY, 1, id="PRIORITY"),
        pytest.param(UNKNOWN, 1, id="unknown"),
        pytest.param(PING, 1, id="PING"),
        pytest.param(frame(FrameType.PING, bytes(8), flags=1), 1, id="PING-ack"),
        pytest.param(frame(FrameType.RST_STREAM, bytes(4), stream=1), 5, id="RST_STREAM"),
        pytest.param(frame(FrameType.SETTINGS), 10, id="SETTINGS"),
        pytest.param(frame(FrameType.SETTINGS, bytes(60)), 20, id="SETTINGS-ten"),
        pytest.param(frame(FrameType.GOAWAY, bytes(8)), 1, id="GOAWAY"),
        pytest.param(frame(FrameType.WINDOW_UPDATE, bytes(4)), 1, id="WINDOW_UPDATE"),
        pytest.param(frame(FrameType.PUSH_PROMISE, bytes(4), stream=1), 1, id="PUSH_PROMISE"),
        pytest.param(frame(FrameType.CONTINUATION, stream=1), 1, id="CONTINUATION"),
        pytest.param(frame(FrameType.DATA, stream=1), 1, id="DATA-empty"),
        pytest.param(frame(FrameType.DATA, b"\0", stream=1, flags=Flag.PADDED), 1, id="DATA-padding-alone"),
        pytest.param(frame(FrameType.DATA, b"\x02\0\0", stream=1, flags=Flag.PADDED), 1, id="DATA-more-padding"),
        pytest.param(frame(FrameType.DATA, b"late", stream=5), 1, id="DATA-for-no-stream"),
    ],
)
def test_the_rate_of_overhead_frames_is_limited(overhead: bytes, cost: int) -> None:
    frames = FrameFilter(OPEN, 0.0)
    list(frames.split(PREFACE + overhead * (MAX_OVERHEAD // cost), 0.0))
    list(frames.split(overhead * (MAX_OVERHEAD // cost // 2), 0.5))

    with pytest.raises(Http2Error) as caught:
        list(frames.split(overhead, 0.5))

    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("frame", [GET, DATA, PADDED, frame(FrameType.DATA, stream=1, flags=Flag.END_STREAM)])
def test_requests_and_data_are_not_limited(frame: bytes) -> None:
    assert b"".join(split(frame * 5000)) == frame * 5000


def test_window_updates_for_sent_data_are_allowed() -> None:
    frames = FrameFilter(OPEN, 0.0)
    update = frame(FrameType.WINDOW_UPDATE, bytes(4))
    list(frames.split(PREFACE, 0.0))

    for _ in range(100):
        frames.sent(16_384)
        list(frames.split(update * 200, 0.0))

    with pytest.raises(Http2Error):
        list(frames.split(update * 10_000, 0.0))


def test_frames_before_the_limit_are_passed_on() -> None:
    passed, message = split_until_cut([GET + PING * (MAX_OVERHEAD + 1)])

    assert passed == GET + PING * MAX_OVERHEAD
    assert "frames a second" in message


def test_long_headers_and_frames_are_refused_before_they_are_complete() -> None:
    begin = frame(FrameType.HEADERS, bytes(MAX_FRAME), stream=1)
    more = frame(FrameType.CONTINUATION, bytes(MAX_FRAME), stream=1)
    for stream, code in (
        (begin + more + frame(FrameType.CONTINUATION, b"x", stream=1)[:9], ErrorCode.ENHANCE_YOUR_CALM),
        (encode_frame_header(MAX_FRAME + 1, FrameType.DATA, stream=1), ErrorCode.FRAME_SIZE_ERROR),
        (b"\xff\xff\xff" + bytes((ORIGIN,)) + bytes(5), ErrorCode.FRAME_SIZE_ERROR),
    ):
        with pytest.raises(Http2Error) as caught:
            split(stream)
        assert caught.value.code == code
    assert MAX_BLOCK == 2 * MAX_FRAME
    assert b"".join(split(begin + more)) == begin + more


@given(
    frames=st.lists(
        st.builds(
            frame,
            st.integers(0, 20),
            st.binary(max_size=20),
            stream=st.integers(0, 7),
            flags=st.integers(0, 255),
        )
        | st.binary(max_size=30)
        | st.sampled_from([GET, LONG_GET, PRIORITY, PADDED, PING * 990])
    ),
    places=st.lists(st.integers(0)),
)
def test_the_result_does_not_depend_on_the_chunks(frames: list[bytes], places: list[int]) -> None:
    stream = b"".join(frames)

    assert split_until_cut(cut(stream, places)) == split_until_cut([stream])


@given(frames=st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=40)), max_size=40), places=st.lists(st.integers(0)))
def test_only_complete_frames_are_passed_on(frames: list[tuple[int, bytes]], places: list[int]) -> None:
    sent = [frame(kind, payload, stream=1, flags=Flag.END_HEADERS) for kind, payload in frames]

    passed, message = split_until_cut(cut(b"".join(sent), places))

    assert not message
    assert passed == b"".join(piece for piece in sent if piece[3] != FrameType.PRIORITY or len(piece) != 9 + 5)


def test_a_refusal_is_settings_and_goaway() -> None:
    assert encode_refusal(ErrorCode.HTTP_1_1_REQUIRED, "no") == frame(FrameType.SETTINGS) + frame(
        FrameType.GOAWAY, bytes(4) + b"\0\0\0\x0dno"
    )
