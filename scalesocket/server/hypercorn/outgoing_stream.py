"""The bounded send buffer of one HTTP/2 stream."""

from typing import Final, TypeGuard

from hypercorn.protocol.events import Data, Event
from hypercorn.protocol.h2 import BufferCompleteError, StreamBuffer
from hypercorn.typing import Event as IOEvent

from scalesocket.config.units import KiB
from scalesocket.wire.frames import Opcode
from scalesocket.wire.http2 import ErrorCode, Http2Error

HELD: Final = 32 * KiB
"""Unsent bytes of one HTTP/2 stream above which its application waits."""
MAX_CONTROL: Final = 64 * KiB
"""Unsent bytes of a websocket's control frames above which another pong cuts the connection."""
OPCODE: Final = 0x0F
"""The opcode in the first byte of a websocket's frame (RFC 6455 5.2)."""


class OutgoingStream(StreamBuffer):
    """Unsent data of one stream: at most HELD bytes and one push, whatever windows the peer opens.

    Hypercorn's own lets the application continue even if the peer took nothing, so a peer with a closed window could make it read
    whole files into memory.
    """

    def __init__(self, event_class: type[IOEvent]) -> None:
        super().__init__(event_class)
        self._control = 0
        """Bytes of control frames added since the buffer was last empty."""

    async def push(self, data: bytes) -> None:
        """Add `data`, and wait until fewer than HELD bytes are left. Raises BufferCompleteError after the end."""
        await self._add(data)
        while len(self.buffer) >= HELD and not self._complete:
            await self._paused.clear()
            await self._paused.wait()

    async def push_control(self, frame: bytes) -> None:
        """Add a control frame of a websocket without waiting: the caller may be the reader of the peer's window updates.

        Raises Http2Error if the peer sends pings and takes no pongs, and BufferCompleteError after the end.
        """
        await self._add(frame)
        self._control += len(frame)
        if self._control > MAX_CONTROL and frame[0] & OPCODE == Opcode.PONG:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "pings of a websocket whose pongs are not taken")

    async def pop(self, max_length: int) -> bytes:
        """Take up to `max_length` bytes."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[: len(data)]
        if len(self.buffer) < HELD:
            await self._paused.set()
        if not self.buffer:
            self._control = 0
            await self._is_empty.set()
        return data

    async def _add(self, data: bytes) -> None:
        if self._complete:
            raise BufferCompleteError
        self.buffer += data
        await self._is_empty.clear()


def is_control_frame(event: Event) -> TypeGuard[Data]:
    """Whether it is a close, ping or pong frame of a websocket. Hypercorn sends each frame as one event."""
    return isinstance(event, Data) and bool(event.data) and event.data[0] & OPCODE >= Opcode.CLOSE
