"""Frames to clients, masking and close codes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.streams import StreamReader

from scalesocket.wire.frames import Opcode, apply_mask, encode_frame, encode_frames
from scalesocket.wire.frames import _xor as xor


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_frames_are_read_by_another_library(size: int, opcode: Opcode) -> None:
    payloads = [b"x" * size, b"between", b"y" * size]

    frames = encode_frames(payloads, opcode)

    assert frames == b"".join(encode_frame(payload, opcode) for payload in payloads)
    reader = StreamReader()
    reader.feed_data(frames)
    for payload in payloads:
        assert parse(reader) == (TheirOpcode(opcode), payload)


def parse(reader: StreamReader) -> tuple[TheirOpcode, bytes]:
    parsing = Frame.parse(reader.read_exact, mask=False)
    try:
        next(parsing)
    except StopIteration as done:
        frame: Frame = done.value
        assert frame.fin
        return frame.opcode, bytes(frame.data)
    raise AssertionError("the frame is incomplete")


def test_no_payloads_give_no_bytes() -> None:
    assert encode_frames([], Opcode.TEXT) == b""


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_with_and_without_compiled_code_is_the_same_and_its_own_inverse(payload: bytes, mask: bytes) -> None:
    assert xor(payload, mask) == apply_mask(payload, mask)
    assert xor(xor(payload, mask), mask) == payload
