"""RFC 6455 frames, sans-IO: payloads to frames, and what a client sent to messages.

This is the hottest code of the server. It favours few, large operations of the interpreter over small readable ones in
three places, each with the figure that pays for it.
"""

import codecs
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final, Protocol

from scalesocket.errors import Close, CloseCode, message_too_big


class Opcode(IntEnum):
    """The kind of a frame (RFC 6455 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


Event = tuple[Opcode, bytes]
"""A whole message (TEXT, BINARY) or a control frame (CLOSE, PING, PONG) with its payload."""

FIN: Final = 0x80
RSV1: Final = 0x40
MASKED: Final = 0x80
MAX_CONTROL: Final = 125
FRAMES_A_FEED: Final = 1024
"""Frames taken at a time: in one read of the loop, behind TLS, there may be 43,000, which would hold up everyone for 0.1 s."""
INFLATED_A_FEED: Final = 256 * 1024
"""Bytes inflated after which a feed ends: 260 kB that came in one read were 250 MiB, and held up everyone for 0.2 s."""
FINAL_TEXT: Final = FIN | Opcode.TEXT

_OPCODES: Final = {opcode.value: opcode for opcode in Opcode}  # a look-up costs a tenth of what Opcode(…) does
_FEED: Final = range(FRAMES_A_FEED)
_SHORT_HEADERS: Final = {
    first: tuple(bytes((first, size)) for size in range(126))
    for opcode in (Opcode.TEXT, Opcode.BINARY)
    for first in (FIN | opcode, FIN | RSV1 | opcode)
}


def _xor(payload: bytes, mask: bytes) -> bytes:
    """XOR with the repeated mask (RFC 6455 5.3), as one operation on big integers."""
    size = len(payload)
    key = (mask * ((size + 3) >> 2))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


try:
    # 119 ns for 100 bytes and 45 us for 1 MiB, where the big integers take 843 ns and 3.6 ms.
    from websockets.speedups import apply_mask as _compiled_xor
except ImportError:  # no compiled wheel for this platform: the same result, and still linear
    apply_mask: Callable[[bytes, bytes], bytes] = _xor
else:
    apply_mask = _compiled_xor


def frame_header(first: int, size: int) -> bytes:
    """The header of an unmasked frame: `first` is FIN, RSV1 and the opcode, `size` the payload's in bytes."""
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


def encode_frame(payload: bytes, opcode: Opcode) -> bytes:
    """One unmasked, final frame."""
    return frame_header(FIN | opcode, len(payload)) + payload


def encode_frames(payloads: Iterable[bytes], opcode: Opcode, flags: int = 0) -> bytes:
    """A final frame for each payload, joined. `flags`: RSV1 when the payloads are deflated."""
    first = FIN | flags | opcode
    short = _SHORT_HEADERS[first]
    parts = []
    for payload in payloads:
        size = len(payload)
        parts.append(short[size] if size < 126 else frame_header(first, size))
        parts.append(payload)
    return b"".join(parts)


class _Violation(Exception):
    """What the client did wrong, as the close it earns."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.close = Close(code, reason)


class FrameReader:
    """What one client sends: chunks in, events out (RFC 6455 5 to 8).

    Holds at most one incomplete frame and the fragments of one message, together no more than `max_message` bytes (an
    eighth more when they are deflated), a header and one chunk.
    """

    __slots__ = (
        "_fragments",
        "_inflate",
        "_inflated",
        "_is_deflated",
        "_needed",
        "_opcode",
        "_rest",
        "_utf8",
        "binary_as_text",
        "failure",
        "has_control",
        "has_more",
        "max_message",
    )

    def __init__(
        self, *, max_message: int, binary_as_text: bool, inflate: Callable[[bytes, int], bytes | None] | None = None
    ) -> None:
        """Accept messages of up to `max_message` bytes, counted inflated.

        `binary_as_text`: report a binary message as TEXT, if it is UTF-8. `inflate(payload, limit)`: undo
        permessage-deflate, None past the limit, ValueError on damaged data; None when it was not negotiated.
        """
        self.max_message = max_message
        self.binary_as_text = binary_as_text
        self.failure: Close | None = None
        """How the connection must be closed: set once, after the events that came before were returned."""
        self.has_control = False
        """Whether the events returned last have a control frame among them."""
        self.has_more = False
        """Whether whole frames may be left, because there were more than a turn may take; `feed(b"")` goes on with them."""
        self._inflate = inflate
        self._inflated = 0  # bytes, by the running feed
        self._rest: bytes | bytearray = b""
        self._needed = 0  # bytes of `_rest` that complete the next frame, or 0 when not even its header is there
        self._opcode: Opcode | None = None  # of the message whose fragments are held
        self._fragments: bytes | bytearray = b""
        self._is_deflated = False
        self._utf8: _IncrementalDecoder | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Take what was read; return what it completed, in order, but no more than FRAMES_A_FEED frames of it.

        A message that takes it past INFLATED_A_FEED bytes of inflated ones is the last, too.

        After a CLOSE event or a failure the client has nothing more to say: do not feed further chunks.
        """
        if self._rest:
            # A bytearray, so that a large frame in many chunks costs its size once and not once a chunk.
            if type(self._rest) is bytes:
                self._rest = bytearray(self._rest)
            self._rest += chunk
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest = b""
            self._needed = 0
        else:
            data = chunk
        self.has_control = self.has_more = False
        self._inflated = 0
        events: list[Event] = []
        try:
            at = self._read_frames(data, events)
        except _Violation as violation:
            self.failure = violation.close
            return events
        if at < len(data):
            self._rest = data[at:]
            self._needed = max(0, self._needed - at)
        return events

    def keep(self, chunk: bytes) -> None:
        """Take what was read and look at it later: `feed(b"")` does. For a reader that has taken nothing yet."""
        self._rest = chunk
        self.has_more = True

    def _read_frames(self, data: bytes, events: list[Event]) -> int:
        """Append the events of all complete frames; return where the incomplete one starts, setting `_needed`."""
        at, end = 0, len(data)
        text, unmask, append, max_message = Opcode.TEXT, apply_mask, events.append, self.max_message
        for _ in _FEED:
            if end - at < 2:
                break
            # The common frame, a short final text, in a dozen operations: 0.55 us against 1.6 us the general way.
            size = data[at + 1] - MASKED
            if 0 <= size < 126 and data[at] == FINAL_TEXT and self._opcode is None and size <= max_message:
                start = at + 6
                stop = start + size
                if stop > end:
                    self._needed = stop
                    break
                payload = unmask(data[start:stop], data[at + 2 : start])
                if not payload.isascii():
                    _check_utf8(payload)
                append((text, payload))
                at = stop
                continue
            after = self._read_frame(data, at, events)
            if after == at:
                break
            at = after
            if events and events[-1][0] is Opcode.CLOSE:
                return end
            if self._inflated > INFLATED_A_FEED:
                self.has_more = end - at >= 2
                break
        else:
            self.has_more = end - at >= 2
        return at

    def _read_frame(self, data: bytes, at: int, events: list[Event]) -> int:
        """Read any frame at `at`; return where the next one starts, or `at` when it is incomplete."""
        first, second = data[at], data[at + 1]
        opcode = self._check_header(first, second)
        size, start = second & 0x7F, at + 2
        if size >= 126:
            extended = 2 if size == 126 else 8
            if len(data) - start < extended:
                return at
            size = int.from_bytes(data[start : start + extended], "big")
            start += extended
            if size >> 63:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a frame's length has its top bit set")
            if size < (126 if extended == 2 else 1 << 16):
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a frame's length is not in its shortest form")
        if opcode < Opcode.CLOSE and len(self._fragments) + size > self.max_message:
            self._check_deflated_size(len(self._fragments) + size, is_deflated=bool(first & RSV1))
        stop = start + 4 + size
        if stop > len(data):
            self._needed = stop
            return at
        payload = apply_mask(data[start + 4 : stop], data[start : start + 4])
        if opcode >= Opcode.CLOSE:
            if opcode is Opcode.CLOSE:
                _check_close(payload)
            self.has_control = True
            events.append((opcode, payload))
        else:
            self._take_fragment(opcode, payload, is_final=bool(first & FIN), is_deflated=bool(first & RSV1), events=events)
        return stop

    def _check_header(self, first: int, second: int) -> Opcode:
        """Refuse what RFC 6455 5.2 and RFC 7692 6 forbid in the first two bytes."""
        opcode = _OPCODES.get(first & 0x0F)
        if opcode is None:
            raise _Violation(CloseCode.PROTOCOL_ERROR, f"reserved opcode {first & 0x0F}")
        if not second & MASKED:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a client's frame must be masked")
        reserved = first & 0x70
        if reserved and (reserved != RSV1 or self._inflate is None or opcode not in (Opcode.TEXT, Opcode.BINARY)):
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
        if opcode >= Opcode.CLOSE:
            if not first & FIN:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a control frame must not be fragmented")
            if second & 0x7F > MAX_CONTROL:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a control frame is longer than 125 bytes")
        elif opcode is Opcode.CONTINUATION:
            if self._opcode is None:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a continuation without a message to continue")
        elif self._opcode is not None:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a new message before the last one was complete")
        return opcode

    def _take_fragment(self, opcode: Opcode, payload: bytes, *, is_final: bool, is_deflated: bool, events: list[Event]) -> None:
        """Add a fragment to the message under way; at the last one report the message."""
        if opcode is not Opcode.CONTINUATION:
            self._opcode = Opcode.TEXT if opcode is Opcode.BINARY and self.binary_as_text else opcode
            self._is_deflated = is_deflated
            if self._opcode is Opcode.TEXT and not is_deflated and not is_final:
                self._utf8 = _new_utf8_decoder()
        kind = self._opcode
        assert kind is not None
        if self._utf8 is not None:  # at the first bad fragment, not at the end of the message
            _check_utf8(payload, self._utf8, is_final)
        if not is_final:
            if not self._fragments:
                self._fragments = bytearray()  # joined as they come, so that a million tiny ones take no more than their bytes
            self._fragments += payload
            return
        was_checked = self._utf8 is not None
        if self._fragments:
            payload = bytes(self._fragments + payload)
            self._fragments = b""
        self._opcode, self._utf8 = None, None
        if self._is_deflated:
            payload = self._undo_deflate(payload)
        if kind is Opcode.TEXT and not was_checked and not payload.isascii():
            _check_utf8(payload)
        events.append((kind, payload))

    def _check_deflated_size(self, size: int, *, is_deflated: bool) -> None:
        """Allow a message past `max_message` only where it may be shorter inflated: random bytes grow a little by deflate."""
        may_shrink = is_deflated or (self._opcode is not None and self._is_deflated)
        if not may_shrink or size > self.max_message + (self.max_message >> 3) + 64:
            raise self._too_big()

    def _too_big(self) -> _Violation:
        return _Violation(CloseCode.TOO_BIG, message_too_big(self.max_message).reason)

    def _undo_deflate(self, payload: bytes) -> bytes:
        assert self._inflate is not None
        try:
            inflated = self._inflate(payload, self.max_message)
        except ValueError as error:
            raise _Violation(CloseCode.INVALID_DATA, "the compressed data is damaged") from error
        if inflated is None:
            raise self._too_big()
        self._inflated += len(inflated)
        return inflated


class _IncrementalDecoder(Protocol):
    def decode(self, data: bytes, final: bool, /) -> str: ...


_new_utf8_decoder: Callable[[], _IncrementalDecoder] = codecs.getincrementaldecoder("utf-8")


def _check_utf8(payload: bytes, decoder: _IncrementalDecoder | None = None, is_final: bool = True) -> None:
    try:
        if decoder is None:
            payload.decode()
        else:
            decoder.decode(payload, is_final)
    except UnicodeDecodeError as error:
        raise _Violation(CloseCode.INVALID_DATA, "a text message is not valid UTF-8") from error


def is_valid_close_code(code: int) -> bool:
    """True for codes that may stand in a close frame (RFC 6455 7.4 and the IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _check_close(payload: bytes) -> None:
    """Refuse a close frame that breaks RFC 6455 5.5.1 and 7.4."""
    if not payload:
        return
    if len(payload) == 1 or not is_valid_close_code(int.from_bytes(payload[:2], "big")):
        raise _Violation(CloseCode.PROTOCOL_ERROR, "the close frame has no valid code")
    _check_utf8(payload[2:])
