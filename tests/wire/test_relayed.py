"""Frames between a relay and the owner of a room."""

import pytest

from scalesocket.wire.frame_reader import FrameReader
from scalesocket.wire.frames import Event, Opcode, encode_frame
from scalesocket.wire.relayed import RelayedReader, encode_relayed

EVENTS: list[Event] = [
    (Opcode.TEXT, b""),
    (Opcode.TEXT, b"hello"),
    (Opcode.BINARY, bytes(125)),
    (Opcode.PING, b"?"),
    (Opcode.TEXT, b"x" * 126),
    (Opcode.BINARY, b"\xff" * 65_535),
    (Opcode.TEXT, b"y" * 65_536),
    (Opcode.CLOSE, b"\x03\xe8bye"),
]
STREAM = b"".join(encode_frame(payload, opcode) for opcode, payload in EVENTS)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 65_540, len(STREAM)])
def test_frames_are_read_in_chunks_of_any_size(size: int) -> None:
    reader = RelayedReader()

    events = [event for at in range(0, len(STREAM), size) for event in reader.feed(STREAM[at : at + size])]

    assert events == EVENTS


def test_frames_are_read_at_every_cut() -> None:
    short = b"".join(encode_frame(payload, opcode) for opcode, payload in EVENTS if len(payload) < 200)
    for cut in range(len(short) + 1):
        reader = RelayedReader()

        assert [*reader.feed(short[:cut]), *reader.feed(short[cut:])] == [event for event in EVENTS if len(event[1]) < 200]


@pytest.mark.parametrize(
    ("opcode", "payload"), EVENTS, ids=lambda value: str(len(value)) if isinstance(value, bytes) else value.name
)
def test_the_owner_reads_the_frames_of_a_relay(opcode: Opcode, payload: bytes) -> None:
    reader = FrameReader(max_message=1_000_000, binary_as_text=False)

    assert reader.feed(encode_relayed(payload, opcode)) == [(opcode, payload)]
    assert reader.failure is None
