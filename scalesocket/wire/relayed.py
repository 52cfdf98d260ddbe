"""Frames between a relay and the owner of a room (RFC 6455 5): the relay's side, which sends masked frames and reads plain ones.

Both ends are ours. Masking protects proxies, of which there are none, so the key is zero and the payload stays as it is.
"""

from typing import Final

from scalesocket.wire.frames import FIN, MASKED, Event, Opcode, frame_header

_ZERO_KEY: Final = bytes(4)


def encode_relayed(payload: bytes, opcode: Opcode) -> bytes:
    """Return a masked, final frame."""
    header = frame_header(FIN | opcode, len(payload))
    return header[:1] + bytes((header[1] | MASKED,)) + header[2:] + _ZERO_KEY + payload


class RelayedReader:
    """Reads the frames of an owner: chunks in, events out. They are whole messages, not masked and not compressed.

    Buffers one incomplete frame and one chunk.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 2
        """Bytes for which it waits."""

    def feed(self, chunk: bytes) -> list[Event]:
        """Add a chunk, and return the events that it completes."""
        rest = self._rest
        rest += chunk
        if len(rest) < self._needed:
            return []
        events: list[Event] = []
        at = 0
        while (bounds := self._find_payload(at)) is not None:
            start, stop = bounds
            events.append((Opcode(rest[at] & 0x0F), bytes(rest[start:stop])))
            at = stop
        del rest[:at]
        self._needed -= at
        return events

    def _find_payload(self, at: int) -> tuple[int, int] | None:
        """Return where the payload of the frame at `at` starts and stops; None while the frame is incomplete."""
        rest = self._rest
        start = at + 2
        size = rest[at + 1] if len(rest) >= start else 0
        extended = {126: 2, 127: 8}.get(size, 0)
        if extended and len(rest) >= start + extended:
            size = int.from_bytes(rest[start : start + extended], "big")
        start += extended
        self._needed = start if len(rest) < start else start + size
        return None if len(rest) < self._needed else (start, start + size)
