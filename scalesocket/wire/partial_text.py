"""Checks text before its frame is complete, so that a websocket fails at the first invalid byte (RFC 6455 8.1)."""

from codecs import utf_8_decode
from typing import Final

from scalesocket.wire.frames import RSV1, Opcode, apply_mask

_CONTINUATION: Final[int] = Opcode.CONTINUATION.value  # numbers compare faster than members
_TEXT: Final[int] = Opcode.TEXT.value
_BINARY: Final[int] = Opcode.BINARY.value


class PartialText:
    """Checks the payload of one incomplete text frame, as it is received. Each byte is checked once."""

    __slots__ = ("_checked", "_start", "pending")

    def __init__(self, start: int, pending: bytes = b"") -> None:
        """Check a frame whose payload begins at `start`. `pending`: an incomplete character at the end of the last fragment."""
        self._start = self._checked = start
        self.pending = pending
        """The incomplete character at the end of what was checked."""

    @property
    def checked(self) -> int:
        """Bytes of the payload that were checked."""
        return self._checked - self._start

    def check(self, frame: bytes | bytearray) -> bool:
        """Return whether what was received of the frame, its header included, may still become valid UTF-8."""
        start, checked = self._start, self._checked
        if len(frame) <= checked:
            return True
        self._checked = len(frame)
        turn = (checked - start) & 3  # the place in the mask
        mask = bytes(frame[start - 4 : start])
        if turn:
            mask = mask[turn:] + mask[:turn]
        if type(frame) is bytes:
            text = apply_mask(frame[checked:], mask)
        else:  # a view spares a copy; the bytearray can grow again when it is released
            with memoryview(frame) as whole, whole[checked:] as received:
                text = apply_mask(received, mask)
        if self.pending:
            text = self.pending + text
            self.pending = b""
        if text.isascii():
            return True
        try:
            _, valid = utf_8_decode(text, "strict", False)
        except UnicodeDecodeError:
            return False
        pending = self.pending = text[valid:]
        # Python's decoder waits for the third byte of a surrogate, which no UTF-8 has (RFC 3629 3).
        return not (len(pending) == 2 and pending[0] == 0xED and pending[1] >= 0xA0)


def start_check(frame: bytes | bytearray, before: bytes | None, binary_as_text: bool) -> PartialText | None:
    """Return the check of an incomplete frame with a valid and complete length; None unless it is text that is not deflated.

    `before`: the incomplete character at the end of the last fragment; None if no text that is not deflated is continued.
    """
    first, size = frame[0], frame[1] & 0x7F
    opcode = first & 0x0F
    if opcode == _CONTINUATION:
        if before is None:
            return None
    elif first & RSV1 or not (opcode == _TEXT or (opcode == _BINARY and binary_as_text)):
        return None
    return PartialText(6 if size < 126 else 8 if size == 126 else 14, before or b"")
