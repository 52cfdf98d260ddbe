"""What a peer sends over HTTP/2 (RFC 9113), as frame headers alone: split into small pieces, cleared of frames that have no
effect here, and bounded.

An HTTP/2 library reads every frame that it is given, and some frames cost far more to read than to send.
"""

from collections.abc import Container, Iterator
from enum import IntEnum, IntFlag
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 3.4)."""
MAX_FRAME: Final = 16_384
"""Bytes of a frame's payload: the default of SETTINGS_MAX_FRAME_SIZE."""
MAX_BLOCK: Final = 32_768
"""Bytes of a header block in HEADERS and CONTINUATION frames, as it is sent. Decoding takes time for each of them."""
MAX_UNASKED: Final = 1000
"""Frames a second that ask for nothing, and as many at once; `COSTS` says which count for more than one."""
MAX_CREDIT: Final = 4000
"""WINDOW_UPDATE frames, beyond those, that a peer has earned by what it was sent."""
BYTES_A_CREDIT: Final = 64
"""Bytes sent that earn a peer one more WINDOW_UPDATE frame."""
PIECE_COST: Final = 16
"""A piece ends after frames that cost so much."""
PIECE_SIZE: Final = 16_384
"""A piece ends after so many bytes."""

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
    """Flags of frames that carry headers or data (RFC 9113 6.1 and 6.2)."""

    END_STREAM = 0x01
    END_HEADERS = 0x04
    PADDED = 0x08


class ErrorCode(IntEnum):
    """Why a connection ends, those that are sent here (RFC 9113 7)."""

    NO_ERROR = 0x0
    FRAME_SIZE_ERROR = 0x6
    ENHANCE_YOUR_CALM = 0xB
    HTTP_1_1_REQUIRED = 0xD


COSTS: Final = {FrameType.RST_STREAM: 5, FrameType.SETTINGS: 10}
"""What a frame counts for in the frames a second: a stream that is opened and reset at once has already cost its request, and
SETTINGS may change every stream. Others count for one."""


class Http2Error(Exception):
    """The peer must be cut: the error code for its GOAWAY frame, and what it did."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Inflow:
    """The frames from one peer, its preface first.

    `split` gives what the HTTP/2 library is to read, in pieces, between which other connections should be served. A piece
    has at most one request, some 16 other frames, and some 16 KiB.

    PRIORITY frames are dropped (RFC 9113 5.3.2 deprecates them), and frames of unknown types (RFC 9113 5.5). Frames that ask
    for nothing are bounded a second: PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, unknown
    types, DATA without content, and DATA for a stream that has ended.
    """

    def __init__(self, streams: Container[int], now: float) -> None:
        """`streams`: the streams that are open, at any time. `now`: seconds of a clock that never goes back."""
        self._streams = streams
        self._rest = b""
        """The beginning of a frame header."""
        self._payload = len(PREFACE)
        """Bytes that are missing of the frame that is being read."""
        self._drops = False
        """That frame is dropped."""
        self._block = -1
        """Bytes of the header block that is being read; -1 between two of them."""
        self._allowance = float(MAX_UNASKED)
        self._since = now
        self._credit = 0.0

    def sent(self, size: int) -> None:
        """Note that the peer was sent `size` bytes, which it may answer with WINDOW_UPDATE frames."""
        self._credit = min(MAX_CREDIT, self._credit + size / BYTES_A_CREDIT)

    def split(self, chunk: bytes, now: float) -> Iterator[bytes]:
        """Give the pieces of what was received, each when it is asked for. Raises Http2Error when the peer must be cut."""
        self._allowance = min(MAX_UNASKED, self._allowance + (now - self._since) * MAX_UNASKED)
        self._since = now
        data = self._rest + chunk if self._rest else chunk
        self._rest = b""
        at = begin = 0  # in `data`: what is looked at, and where the part of the piece begins that is not in `kept` yet
        kept: list[bytes] = []
        cost = size = 0
        while True:
            if self._payload:
                taken = min(self._payload, len(data) - at)
                self._payload -= taken
                at += taken
                if self._drops:
                    begin = at
                size += taken
            if cost >= PIECE_COST or size >= PIECE_SIZE:
                yield b"".join((*kept, data[begin:at]))
                begin, kept, cost, size = at, [], 0, 0
            if self._payload or not self._has_header(data, at):
                break
            try:
                frame_cost, self._drops = self._judge(data, at)
            except Http2Error:
                yield b"".join((*kept, data[begin:at]))  # what came before it counts
                raise
            cost += frame_cost
            self._payload = int.from_bytes(data[at : at + 3], "big")
            if self._drops:
                kept.append(data[begin:at])
                begin = at + _HEADER
            at += _HEADER
        self._rest = data[at:]
        if piece := b"".join((*kept, data[begin:at])):
            yield piece

    def _has_header(self, data: bytes, at: int) -> bool:
        """Whether a frame header can be judged: for padded data its first byte is needed."""
        missing = _HEADER - (len(data) - at)
        if missing > 0:
            return False
        if not missing and data[at + 3] == FrameType.DATA and data[at + 4] & Flag.PADDED:
            return data[at : at + 3] == b"\0\0\0"
        return True

    def _judge(self, data: bytes, at: int) -> tuple[int, bool]:
        """What the frame costs its piece, and whether it is dropped. Raises Http2Error."""
        size = int.from_bytes(data[at : at + 3], "big")
        kind, flags = data[at + 3], data[at + 4]
        if size > MAX_FRAME:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes; {MAX_FRAME} are the most")
        if kind == FrameType.HEADERS or self._block >= 0:
            return self._judge_block(kind, flags, size), False
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
            return 1, bool(size == 5 and stream)  # others are errors (RFC 9113 6.3), which the library knows
        return cost, kind > FrameType.CONTINUATION

    def _judge_block(self, kind: int, flags: int, size: int) -> int:
        """What a frame costs its piece that has part of a header block, or comes in the middle of one."""
        if kind == FrameType.HEADERS:
            self._block = size
        else:  # of another type than CONTINUATION it is an error (RFC 9113 6.10), which the library knows
            self._block += size
            self._charge(1)
        if self._block > MAX_BLOCK:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, f"the headers of a request are longer than {MAX_BLOCK} bytes")
        if flags & Flag.END_HEADERS:
            self._block = -1
            return PIECE_COST
        return 1

    def _charge(self, cost: int) -> None:
        """Count a frame that asks for nothing."""
        self._allowance -= cost
        if self._allowance < 0:
            raise Http2Error(
                ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_UNASKED} frames a second that neither ask for nor carry anything"
            )


def encode_frame_header(size: int, kind: FrameType, flags: int = 0, stream: int = 0) -> bytes:
    """The header of a frame whose payload has `size` bytes (RFC 9113 4.1)."""
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def encode_refusal(code: ErrorCode, message: str) -> bytes:
    """The whole answer to a connection that is refused: empty SETTINGS, and GOAWAY with a reason in plain text."""
    debug = message.encode()
    goaway = encode_frame_header(8 + len(debug), FrameType.GOAWAY) + bytes(4) + code.to_bytes(4, "big") + debug
    return encode_frame_header(0, FrameType.SETTINGS) + goaway
