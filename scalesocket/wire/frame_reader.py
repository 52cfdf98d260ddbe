"""Reads the frames of a client (RFC 6455), without I/O.

This code runs for every message from a client. It prefers few, large operations of the interpreter.
"""

import codecs
from collections.abc import Callable
from typing import Final, Protocol

from scalesocket.errors import Close, CloseCode, message_too_big
from scalesocket.wire.frames import FIN, MASKED, RSV1, Event, Opcode, apply_mask, is_valid_close_code
from scalesocket.wire.partial_text import PartialText, start_check

MAX_CONTROL: Final = 125
"""Bytes of a control frame's payload (RFC 6455 5.5)."""
FRAMES_PER_FEED: Final = 1024
"""Frames read by one `feed`. A read behind TLS may hold 43,000, which take 0.1 s."""
INFLATED_PER_FEED: Final = 256 * 1024
"""Bytes inflated after which a `feed` ends. A read of 260 kB may inflate to 250 MiB, which takes 0.2 s."""

_FINAL_TEXT: Final = FIN | Opcode.TEXT
_OPCODES: Final = {opcode.value: opcode for opcode in Opcode}  # a look-up takes a tenth of the time of Opcode(…)
_FEED: Final = range(FRAMES_PER_FEED)
_SHORT: Final = 6 + 125  # bytes of the longest frame of the fast path
_INVALID_TEXT: Final = "a text message is not valid UTF-8"


class _IncrementalDecoder(Protocol):
    def decode(self, data: bytes, final: bool, /) -> str: ...
    def getstate(self) -> tuple[bytes, int]: ...
    def setstate(self, state: tuple[bytes, int], /) -> None: ...


_new_utf8_decoder: Callable[[], _IncrementalDecoder] = codecs.getincrementaldecoder("utf-8")


class _Violation(Exception):
    """The client broke the protocol: how its websocket is closed."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.close = Close(code, reason)


class FrameReader:
    """Reads the frames of one client: chunks in, events out (RFC 6455 5 to 8).

    Buffers at most one incomplete frame and the fragments of one message, together no more than `max_message` bytes (an
    eighth more if they are deflated), a header and one chunk.
    """

    __slots__ = (
        "_fragments",
        "_inflate",
        "_inflated",
        "_is_deflated",
        "_needed",
        "_opcode",
        "_partial",
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

        `binary_as_text`: report binary messages as TEXT if they are UTF-8. `inflate(payload, limit)`: undo permessage-deflate,
        with None for more than `limit` bytes and ValueError for damaged data; None if it was not negotiated.
        """
        self.max_message = max_message
        self.binary_as_text = binary_as_text
        self.failure: Close | None = None
        """How the websocket must be closed. Set once, when the events before the violation are returned."""
        self.has_control = False
        """Whether the last returned events include a control frame."""
        self.has_more = False
        """Whether complete frames may be left after the last `feed`; `feed(b"")` continues with them."""
        self._inflate = inflate
        self._inflated = 0
        """Bytes inflated by the current `feed`."""
        self._rest: bytes | bytearray = b""
        self._needed = 0
        """Size of `_rest` at which the next frame is complete; 0 while its header is incomplete."""
        self._partial: PartialText | None = None
        """Checks the text in `_rest` while its frame is incomplete."""
        self._opcode: Opcode | None = None
        """Of the message whose fragments are buffered."""
        self._fragments: bytes | bytearray = b""
        self._is_deflated = False
        self._utf8: _IncrementalDecoder | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Add a chunk and return the events it completes, of at most FRAMES_PER_FEED frames.

        It also stops after the message with which more than INFLATED_PER_FEED bytes are inflated. Must not be called after a
        CLOSE event or a failure.
        """
        if self._rest:
            # A bytearray, so that a large frame in many chunks is not copied for each of them.
            if type(self._rest) is bytes:
                self._rest = bytearray(self._rest)
            self._rest += chunk
            if len(self._rest) < self._needed:
                self._check_partial()
                return []
            data, self._rest = bytes(self._rest), b""
            self._partial = self._partial if self._needed > _SHORT else None  # a short text is checked again
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
            self._rest, self._needed = data[at:], max(0, self._needed - at)
            if self._needed:
                before = self._utf8.getstate()[0] if self._utf8 is not None else None
                self._partial = start_check(self._rest, before, self.binary_as_text)
                self._check_partial()
        return events

    def _check_partial(self) -> None:
        if self._partial is not None and not self._partial.check(self._rest):
            self.failure = Close(CloseCode.INVALID_DATA, _INVALID_TEXT)

    def keep(self, chunk: bytes) -> None:
        """Buffer a first chunk for a later `feed(b"")`."""
        self._rest = chunk
        self.has_more = True

    def _read_frames(self, data: bytes, events: list[Event]) -> int:
        """Append the events of complete frames. Return where the next frame starts, and set `_needed` if it is incomplete."""
        at, end = 0, len(data)
        text, unmask, append, max_message = Opcode.TEXT, apply_mask, events.append, self.max_message
        for _ in _FEED:
            if end - at < 2:
                break
            # Fast path for short final texts: a third of the time of `_read_frame`.
            size = data[at + 1] - MASKED
            if 0 <= size < 126 and data[at] == _FINAL_TEXT and self._opcode is None and size <= max_message:
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
            if self._inflated > INFLATED_PER_FEED:
                self.has_more = end - at >= 2
                break
        else:
            self.has_more = end - at >= 2
        return at

    def _read_frame(self, data: bytes, at: int, events: list[Event]) -> int:
        """Read the frame at `at`. Return where the next one starts, or `at` if this one is incomplete."""
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
        """Check the first two bytes of a frame by RFC 6455 5.2 and RFC 7692 6, and return the opcode."""
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
        """Add a fragment to the current message. After the last one, append the event of the message."""
        if opcode is not Opcode.CONTINUATION:
            self._opcode = Opcode.TEXT if opcode is Opcode.BINARY and self.binary_as_text else opcode
            self._is_deflated = is_deflated
            if self._opcode is Opcode.TEXT and not is_deflated and not is_final:
                self._utf8 = _new_utf8_decoder()
        kind = self._opcode
        assert kind is not None
        checked = 0
        if self._partial is not None:
            self._utf8 = self._utf8 or _new_utf8_decoder()
            self._utf8.setstate((self._partial.pending, 0))
            checked, self._partial = self._partial.checked, None
        if self._utf8 is not None:  # fail at the first invalid fragment, not at the end of the message
            _check_utf8(payload[checked:], self._utf8, is_final)
        if not is_final:
            if not self._fragments:
                self._fragments = bytearray()  # joined at once, because a million tiny objects would take far more memory
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
        """Allow more than `max_message` bytes only if they are deflated: deflate makes random bytes a little longer."""
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


def _check_utf8(payload: bytes, decoder: _IncrementalDecoder | None = None, is_final: bool = True) -> None:
    try:
        if decoder is None:
            payload.decode()
        else:
            decoder.decode(payload, is_final)
    except UnicodeDecodeError as error:
        raise _Violation(CloseCode.INVALID_DATA, _INVALID_TEXT) from error


def _check_close(payload: bytes) -> None:
    """Check the payload of a close frame by RFC 6455 5.5.1 and 7.4."""
    if not payload:
        return
    if len(payload) == 1 or not is_valid_close_code(int.from_bytes(payload[:2], "big")):
        raise _Violation(CloseCode.PROTOCOL_ERROR, "the close frame has no valid code")
    _check_utf8(payload[2:])
