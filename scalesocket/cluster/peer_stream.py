"""A response of another node that goes on, such as a tail: the asking node's end."""

import asyncio
from contextlib import suppress
from typing import Final

from scalesocket.cluster.channels import Channel
from scalesocket.cluster.peer_client import SHORTEST_PATIENCE, PeerClient, answering_within, describe
from scalesocket.cluster.preamble import MAX_BLOCK, RESPONSE_HEAD, Kind
from scalesocket.cluster.ready import PeerError

HEARTBEAT_INTERVAL: Final = 10.0
"""Seconds between two bytes that show the other node that this one is alive."""


class PeerStream:
    """Blocks of bytes that another node sends. It sends no more than was read, but for what the kernels keep."""

    first = b""
    """The first block."""

    def __init__(self, address: str, channel: Channel) -> None:
        """Read from `channel`, and close it in the end."""
        self._address = address
        self._channel = channel
        self._heartbeats = asyncio.create_task(self._send_heartbeats(), name="heartbeats of a stream")
        self._is_reading = False
        self._is_closed = False

    async def read(self) -> bytes | None:
        """Return the next block; None at the end. A cancelled call may lose a part of one. Raises PeerError."""
        self._is_reading = True
        try:
            (size,) = RESPONSE_HEAD.unpack(await self._channel.read(RESPONSE_HEAD.size))
            if size > MAX_BLOCK:
                raise PeerError(f"{self._address}: a block is too long ({size} bytes)")
            return await self._channel.read(size) if size else None
        except (OSError, EOFError) as error:
            raise PeerError(f"{self._address}: {describe(error)}") from error
        finally:
            self._is_reading = False
            if self._is_closed:
                self._channel.close()

    def close(self) -> None:
        """End the stream. A call of `read` must be cancelled, too, and closes the connection. Calls may repeat."""
        self._is_closed = True
        self._heartbeats.cancel()
        if not self._is_reading:
            self._channel.close()

    async def _send_heartbeats(self) -> None:
        with suppress(OSError):  # which the reader notices
            while True:
                await asyncio.sleep(HEARTBEAT_INTERVAL)
                self._channel.send(b"\0")


async def open_stream(client: PeerClient, address: str, payload: bytes, *, timeout: float) -> PeerStream:
    """Ask the node at `address` for a stream, and wait at most `timeout` seconds for its first block. Raises PeerError."""
    async with answering_within(timeout, address):
        channel = await client.ask(address, Kind.STREAM, payload)
        channel.set_patience(SHORTEST_PATIENCE)
        stream = PeerStream(address, channel)
        try:
            first = await stream.read()
            if first is None:
                raise EOFError
        except BaseException:
            stream.close()
            raise
    stream.first = first
    return stream
