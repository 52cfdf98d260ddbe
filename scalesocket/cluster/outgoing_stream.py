"""A response that goes on, such as a tail: the answering node's end, from the request to the end of either side."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from scalesocket.cluster.preamble import END_OF_STREAM, MAX_BLOCK, RESPONSE_HEAD, Answer

OPEN_TIMEOUT: Final = 30.0
"""Seconds until the first block is ready."""
HEARTBEAT_TIMEOUT: Final = 30.0
"""Seconds without a heartbeat after which the other node counts as dead."""
FLUSH_TIMEOUT: Final = 30.0
"""Seconds for the last blocks."""


class BlockSource(Protocol):
    """Where the blocks of a stream come from."""

    first: bytes
    """The first block."""

    async def read(self) -> bytes | None:
        """Wait for a block; None at the end."""

    def close(self) -> None:
        """The other node has ended the stream, or is gone; also called after the end."""


class OutgoingStream(asyncio.Protocol):
    """Sends blocks as fast as they are read. Its source is asked for one at a time, and bounds what waits meanwhile."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """Become the protocol of `transport`. The caller runs `run`, in a task that it gives to `begin`."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._is_writable = asyncio.Event()
        self._is_writable.set()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(HEARTBEAT_TIMEOUT, transport.abort)
        transport.set_protocol(self)

    def begin(self, task: "asyncio.Task[None]") -> None:
        """Cancel the task when the connection ends."""
        self._task = task

    def stop_watching(self) -> None:
        """Another protocol takes the connection over."""
        self._timer.cancel()

    async def run(self, opening: Callable[[], Awaitable[BlockSource]]) -> None:
        """Open the stream, and send it until its end. What `opening` raises passes through, with nothing sent."""
        async with asyncio.timeout(OPEN_TIMEOUT):
            stream = await opening()
        try:
            self._transport.write(bytes((Answer.TAKEN,)))
            block: bytes | None = stream.first
            while block is not None:
                if len(block) > MAX_BLOCK:
                    raise ValueError(f"a block of {len(block)} bytes")
                if block:
                    self._transport.write(RESPONSE_HEAD.pack(len(block)) + block)
                    await self._is_writable.wait()
                block = await stream.read()
            self._transport.write(END_OF_STREAM)
            self._timer.cancel()
            self._timer = self._loop.call_later(FLUSH_TIMEOUT, self._transport.abort)
            self._transport.close()
        finally:
            stream.close()

    def data_received(self, chunk: bytes) -> None:
        """Restart the timer: the other node is alive."""
        self._timer.cancel()
        self._timer = self._loop.call_later(HEARTBEAT_TIMEOUT, self._transport.abort)

    def eof_received(self) -> bool:
        """End: nobody reads the stream any more."""
        return False

    def pause_writing(self) -> None:
        """Ask for nothing more until what was sent is read."""
        self._is_writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the stream."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
