"""gwsocket routing: a header of 12 bytes precedes each payload, in both directions.

It has the client id, the type and the length in bytes, each a u32. Source: gwsocket(1), strict mode, in network byte order; the
original of this program has them little-endian.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from scalesocket.errors import BackendError, RecordTooLong, RoutingError
from scalesocket.wire.batch import Batch, ClientId
from scalesocket.wire.frames import Event, Opcode
from scalesocket.wire.routed import Drop, Routed, then_raise
from scalesocket.wire.text import INVALID_UTF8, is_utf8, replace_invalid_utf8

ByteOrder = Literal["little", "big"]

HEADERS: Final = {"little": struct.Struct("<III"), "big": struct.Struct(">III")}
HEADER_SIZE: Final = 12
KINDS: Final = {1: Opcode.TEXT, 2: Opcode.BINARY}
CUT_SHORT: Final = Drop("the output ended inside a gwsocket message")


class GwsocketRouter:
    """Reads a backend's output. Id 0 is everyone; consecutive payloads of the same client and type share a batch.

    An invalid header ends the room, because the start of the next one is unknown. Buffers at most one incomplete message.
    """

    __slots__ = ("_ends", "_expects_end", "_held", "_is_broken", "_max_record", "_needed", "_pattern", "_unpack")

    def __init__(self, byte_order: ByteOrder, delimiters: str, *, max_record: int) -> None:
        """Expect one of `delimiters` after each payload, if there are any; allow payloads of up to `max_record` bytes."""
        self._unpack = HEADERS[byte_order].unpack_from
        self._max_record = max_record
        self._ends = [character.encode() for character in delimiters]
        self._pattern = re.compile(b"|".join(map(re.escape, self._ends)))
        self._expects_end = False
        self._held = bytearray()
        self._needed = 0
        """Buffered bytes with which reading can continue."""
        self._is_broken = False

    def route(self, chunk: bytes) -> Iterable[Routed]:
        """Route the messages that end in this chunk. Raises RoutingError or RecordTooLong, after those before it."""
        if self._is_broken:
            return ()
        if self._held:
            self._held += chunk
            if len(self._held) < self._needed:
                return ()
            chunk = bytes(self._held)
            self._held.clear()
        return self._read(chunk)

    def finish(self) -> Iterable[Routed]:
        """Drop an incomplete message at the end of the output."""
        if self._held and not self._is_broken:
            self._held.clear()
            return [CUT_SHORT]
        return ()

    def _read(self, chunk: bytes) -> Iterable[Routed]:
        routed: list[Routed] = []
        run: list[bytes] = []  # consecutive payloads with the same address
        address = (0, Opcode.TEXT)
        at = 0
        try:
            while True:
                if self._expects_end:
                    end = self._skip_delimiter(chunk, at)
                    if end == at:
                        break
                    at = end
                if len(chunk) - at < HEADER_SIZE:
                    self._needed = HEADER_SIZE
                    break
                to, kind, size = self._unpack(chunk, at)
                opcode = KINDS.get(kind)
                if opcode is None:
                    raise RoutingError(f"the backend sent a gwsocket header of unknown type {kind}")
                if size > self._max_record:
                    raise RecordTooLong([])
                begin = at + HEADER_SIZE
                if len(chunk) < begin + size:
                    self._needed = HEADER_SIZE + size
                    break
                if address != (to, opcode):
                    routed += _batch(run, *address)
                    run, address = [], (to, opcode)
                at = begin + size
                run.append(chunk[begin:at])
                self._expects_end = bool(self._ends)
        except BackendError as error:
            self._is_broken = True
            return then_raise([*routed, *_batch(run, *address)], error)
        self._held += chunk[at:]
        return routed + _batch(run, *address)

    def _skip_delimiter(self, chunk: bytes, at: int) -> int:
        """Return where the delimiter at `at` ends, or `at` if it is incomplete. Raises RoutingError if there is none."""
        end = self._pattern.match(chunk, at)
        if end is not None:
            self._expects_end = False
            return end.end()
        rest = chunk[at:]
        if not any(delimiter.startswith(rest) for delimiter in self._ends):
            raise RoutingError("the backend sent a gwsocket payload without a delimiter after it")
        self._needed = len(rest) + 1
        return at


def _batch(payloads: list[bytes], to: int, opcode: Opcode) -> list[Routed]:
    if not payloads:
        return []
    ids = frozenset((ClientId(to),)) if to else None
    if opcode is Opcode.TEXT and not all(map(is_utf8, payloads)):
        return [INVALID_UTF8, Batch([replace_invalid_utf8(payload) for payload in payloads], opcode, to=ids)]
    return [Batch(payloads, opcode, to=ids)]


class GwsocketEncoder:
    """Writes a header with the sender's id before each payload."""

    __slots__ = ("_pack", "_terminator")

    def __init__(self, byte_order: ByteOrder, terminator: bytes) -> None:
        """End each payload with `terminator`, which may be empty. The length in the header does not include it."""
        self._pack = HEADERS[byte_order].pack
        self._terminator = terminator

    def encode(self, sender: ClientId, messages: Sequence[Event]) -> tuple[bytes, Sequence[Drop]]:
        """Encode messages of one client as one write."""
        parts: list[bytes] = []
        for opcode, payload in messages:
            parts += (self._pack(sender, opcode, len(payload)), payload, self._terminator)
        return b"".join(parts), ()

    def encode_text(self, sender: ClientId, text: bytes) -> bytes:
        """Encode a join or leave message as a text message from the client it describes."""
        return self.encode(sender, [(Opcode.TEXT, text)])[0]
