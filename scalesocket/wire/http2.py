"""Filters the frames of an HTTP/2 peer (RFC 9113) by their headers: splits input into small pieces, drops frames without effect,
and limits the rate of others.

The HTTP/2 library reads every frame it receives, and some frames take far more CPU time to read than to send.
"""

from collections.abc import Container, Iterator
from enum import IntEnum, IntFlag
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The connection preface of a client (RFC 9113 3.4)."""
MAX_FRAME: Final = 16_384
"""Bytes of the longest payload: the default of SETTINGS_MAX_FRAME_SIZE."""
MAX_BLOCK: Final = 32_768
"""Bytes of the longest header block, in HEADERS and CONTINUATION frames, before decoding."""
MAX_OVERHEAD: Final = 1000
"""Overhead frames in a second, and in a burst. Overhead frames neither carry data nor open a request; see `COSTS`."""
MAX_CREDIT: Final = 4000
"""WINDOW_UPDATE frames that a peer may send in addition, for data that it was sent."""
BYTES_PER_CREDIT: Final = 64
"""Bytes sent for which a peer may send one WINDOW_UPDATE frame."""
PIECE_COST: Final = 16
"""The total cost of frames after which a piece ends."""
PIECE_SIZE: Final = 16_384
"""Bytes after which a piece ends."""

_HEADER: Final = 9
_SETTING: Final = 6


class FrameType(IntEnum):
    """Types of frames (RFC 9113 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Flags of HEADERS and DATA frames (RFC 9113 6.1 and 6.2)."""

    END_STREAM = 0x01
    END_HEADERS = 0x04
    PADDED = 0x08


class ErrorCode(IntEnum):
    """The error codes that are used here (RFC 9113 7)."""

    NO_ERROR = 0x0
    FRAME_SIZE_ERROR = 0x6
    ENHANCE_YOUR_CALM = 0xB
    HTTP_1_1_REQUIRED = 0xD


COSTS: Final = {FrameType.RST_STREAM: 5, FrameType.SETTINGS: 10}
"""The cost of an overhead frame; 1 by default. The request of a stream that is reset at once has been served in part, and
SETTINGS may change every stream."""


class Http2Error(Exception):
    """The connection must be closed: the error code for the GOAWAY frame, and the reason."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class FrameFilter:
    """Filters the frames of one peer, from its preface on.

    `split` yields the input for the HTTP/2 library in pieces, between which other connections should be served. A piece has at
    most one request, about 16 other frames, and about 16 KiB.

    PRIORITY frames (deprecated by RFC 9113 5.3.2) and frames of unknown types (RFC 9113 5.5) are dropped. The rate of overhead
    frames is limited: PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, unknown types, DATA without
    content, and DATA of a stream that has ended.
    """

    def __init__(self, streams: Container[int], now: float) -> None:
        """`streams`: the open streams, kept up to date by the caller. `now`: seconds of a monotonic clock."""
        self._streams = streams
        self._rest = b""
        """An incomplete frame header."""
        self._payload = len(PREFACE)
        """Bytes missing from the current frame."""
        self._is_dropped = False
        """Whether the current frame is dropped."""
        self._block = -1
        """Bytes of the current header block; -1 if there is none."""
        self._allowance = float(MAX_OVERHEAD)
        self._since = now
        self._credit = 0.0

    def sent(self, size: int) -> None:
        """Note that `size` bytes were sent to the peer, which may send WINDOW_UPDATE frames for them."""
        self._credit = min(MAX_CREDIT, self._credit + size / BYTES_PER_CREDIT)

    def split(self, chunk: bytes, now: float) -> Iterator[bytes]:
        """Yield the pieces of a chunk that was received. Raises Http2Error if the connection must be closed."""
        self._allowance = min(MAX_OVERHEAD, self._allowance + (now - self._since) * MAX_OVERHEAD)
        self._since = now
        data = self._rest + chunk if self._rest else chunk
        self._rest = b""
        at = begin = 0  # positions in `data`: the current one, and that up to which `kept` has the piece
        kept: list[bytes] = []
        cost = size = 0
        while True:
            if self._payload:
                taken = min(self._payload, len(data) - at)
                self._payload -= taken
                at += taken
                if self._is_dropped:
                    begin = at
                size += taken
            if cost >= PIECE_COST or size >= PIECE_SIZE:
                yield b"".join((*kept, data[begin:at]))
                begin, kept, cost, size = at, [], 0, 0
            if self._payload or not self._has_header(data, at):
                break
            try:
                frame_cost, self._is_dropped = self._classify(data, at)
            except Http2Error:
                yield b"".join((*kept, data[begin:at]))  # the frames before the violation
                raise
            cost += frame_cost
            self._payload = int.from_bytes(data[at : at + 3], "big")
            if self._is_dropped:
                kept.append(data[begin:at])
                begin = at + _HEADER
            at += _HEADER
        self._rest = data[at:]
        if piece := b"".join((*kept, data[begin:at])):
            yield piece

    def _has_header(self, data: bytes, at: int) -> bool:
        """Return whether a frame header is complete. For padded DATA the first byte of the payload is needed too."""
        missing = _HEADER - (len(data) - at)
        if missing > 0:
            return False
        if not missing and data[at + 3] == FrameType.DATA and data[at + 4] & Flag.PADDED:
            return data[at : at + 3] == b"\0\0\0"
        return True

    def _classify(self, data: bytes, at: int) -> tuple[int, bool]:
        """Return the cost of a frame for its piece, and whether it is dropped. Raises Http2Error."""
        size = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        if size > MAX_FRAME:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes; {MAX_FRAME} are the most")
        if kind == FrameType.HEADERS or self._block >= 0:
            return self._classify_block(kind, flags, size), False
        stream = int.from_bytes(data[at + 5 : at + _HEADER], "big") & 0x7FFF_FFFF
        if kind == FrameType.DATA:
            if flags & Flag.END_STREAM:
                return PIECE_COST, False
            padding = 1 + data[at + _HEADER] if flags & Flag.PADDED and size else 0
            if size <= padding or stream not in self._streams:
                self._charge(1)
            return 1, False
        if kind == FrameType.WINDOW_UPDATE and self._credit >= 1:
            self._credit -= 1
            return 1, False
        cost = COSTS.get(kind, 1)  # type: ignore[call-overload]
        if kind == FrameType.SETTINGS:
            cost += size // _SETTING
        self._charge(cost)
        if kind == FrameType.PRIORITY:
            return 1, bool(size == 5 and stream)  # others are errors (RFC 9113 6.3), which the library reports
        return cost, kind > FrameType.CONTINUATION

    def _classify_block(self, kind: int, flags: int, size: int) -> int:
        """Return the cost of a frame that is part of a header block, or in the middle of one."""
        if kind == FrameType.HEADERS:
            self._block = size
        else:  # any type but CONTINUATION is an error (RFC 9113 6.10), which the library reports
            self._block += size
            self._charge(1)
        if self._block > MAX_BLOCK:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, f"the headers of a request are longer than {MAX_BLOCK} bytes")
        if flags & Flag.END_HEADERS:
            self._block = -1
            return PIECE_COST
        return 1

    def _charge(self, cost: int) -> None:
        """Count an overhead frame."""
        self._allowance -= cost
        if self._allowance < 0:
            raise Http2Error(
                ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_OVERHEAD} frames a second that neither ask for nor carry anything"
            )


def encode_frame_header(size: int, kind: FrameType, flags: int = 0, stream: int = 0) -> bytes:
    """Return the header of a frame with a payload of `size` bytes (RFC 9113 4.1)."""
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def encode_refusal(code: ErrorCode, message: str) -> bytes:
    """Return the response to a refused connection: empty SETTINGS, and GOAWAY with the reason as text."""
    debug = message.encode()
    goaway = encode_frame_header(8 + len(debug), FrameType.GOAWAY) + bytes(4) + code.to_bytes(4, "big") + debug
    return encode_frame_header(0, FrameType.SETTINGS) + goaway
