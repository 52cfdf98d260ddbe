"""Relays the messages of an ASGI websocket to the owner of its room, over a socket pair with frames of RFC 6455.

For the general lane, where a connection may have other streams, and its state is in Hypercorn.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import anyio

from scalesocket.admission.control import Admission
from scalesocket.config.units import KiB
from scalesocket.edge.limits import CLOSE_TIMEOUT, FAULT_TIMEOUT
from scalesocket.errors import PEER_FAULTS, Close, CloseCode
from scalesocket.placement.passages import Passages, has_ended
from scalesocket.wire.frames import Opcode, is_valid_close_code
from scalesocket.wire.relayed import RelayedReader, encode_relayed

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

READ_SIZE: Final = 64 * KiB
CHECK_INTERVAL: Final = 1.0
"""Seconds after which a message that the client does not take makes the relay look whether the owner has ended."""
GOING_AWAY_TIMEOUT: Final = 1.0
"""Seconds to send the close frame when the server is stopped before the owner."""


class Relay:
    """One relayed websocket."""

    def __init__(
        self,
        admission: Admission,
        receive: Receive,
        send: Send,
        *,
        passages: Passages,
        cut: Callable[[], None] | None = None,
    ) -> None:
        """Receive by `receive` and send by `send`; nothing is sent before `run`. `cut` aborts the client's connection."""
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._send = send
        self._subprotocol = admission.subprotocol
        self._control = admission.control
        self._passages = passages
        self._patience = admission.app.stall_timeout
        """Seconds for which the client may take nothing after the owner has ended."""
        self._cut = cut
        self._scope = anyio.CancelScope()
        self._is_gone = False
        """Whether the server has sent `websocket.disconnect`."""
        self._is_closed = False
        """Whether a close frame was sent to the client."""
        self._is_ending = False
        """Whether nothing more is sent to the owner."""

    async def run(self, sock: socket.socket, early: bytes = b"") -> bool:
        """Accept the websocket and relay it until it ends. Return whether the server has sent `websocket.disconnect`.

        `sock`: this end of the stream, which is closed at the end. `early`: what was read from it already.
        """
        self._sock = sock
        reader, self._writer = await asyncio.open_connection(sock=sock)
        self._passages.add(self)
        try:
            await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol})
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read_client, name="relay to the owner")
                    await self._read_owner(reader, early)
        except asyncio.CancelledError:
            await self._close_going_away()
            raise
        finally:
            self._passages.remove(self)
            self._writer.close()  # what was written is still sent
        if not self._is_gone and self._cut is not None:
            self._cut()
        return self._is_gone

    # --- Passage

    def end(self) -> None:
        """End the owner's input. It closes the websocket, since this process stops (`Passage.end`)."""
        if not self._is_ending and not self._writer.is_closing():
            self._is_ending = True
            self._writer.write_eof()

    def cut(self) -> None:
        """Abort the websocket (`Passage.cut`)."""
        self._scope.cancel()

    # --- The two tasks

    async def _read_client(self) -> None:
        """Relay messages to the owner, which pushes back; drop them after a close frame."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._is_gone = True
                code = event.get("code") or 0
                self._write(Close(code, event.get("reason") or "").payload() if is_valid_close_code(code) else b"", Opcode.CLOSE)
                self._scope.cancel()
                return
            text: str | None = event.get("text")
            if text is None:
                self._write(event["bytes"], Opcode.BINARY)
            else:
                self._write(text.encode(), Opcode.TEXT)
            with contextlib.suppress(OSError):  # `_read_owner` notices that the owner has ended
                await self._writer.drain()

    async def _read_owner(self, reader: asyncio.StreamReader, early: bytes) -> None:
        """Relay messages to the client, and answer pings, until the owner has ended. `early`: what was read already."""
        frames = RelayedReader()
        with contextlib.suppress(OSError):
            while chunk := early or await reader.read(READ_SIZE):
                early = b""
                for opcode, payload in frames.feed(chunk):
                    if opcode is Opcode.PING:
                        self._write(payload, Opcode.PONG)
                    elif opcode is Opcode.CLOSE:
                        self._write(payload[:2], Opcode.CLOSE)
                        await self._close(payload)
                        return
                    else:
                        await self._relay(payload, opcode)
        self._scope.cancel()

    def _write(self, payload: bytes, opcode: Opcode) -> None:
        if not self._is_closed and not self._is_ending and not self._writer.is_closing():
            self._writer.write(encode_relayed(payload, opcode))

    # --- Sending to the client

    async def _relay(self, payload: bytes, opcode: Opcode) -> None:
        """Send a message to the client. It may take as long as the owner lives, which decides about slow clients."""
        if opcode is Opcode.TEXT:
            message: AsgiMessage = {"type": "websocket.send", "text": payload.decode()}
        else:
            message = {"type": "websocket.send", "bytes": payload}
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check_owner)
        try:
            await self._send(message)
        finally:
            self._timer.cancel()

    def _check_owner(self) -> None:
        """Give the client `stall_timeout` to take a message, once the owner has ended."""
        if has_ended(self._sock.fileno()):
            self._timer = self._loop.call_later(self._patience, self._scope.cancel)
        else:
            self._timer = self._loop.call_later(CHECK_INTERVAL, self._check_owner)

    async def _close(self, payload: bytes) -> None:
        """Send a close frame to the client, and wait a short time for its own."""
        code = int.from_bytes(payload[:2], "big") or int(CloseCode.NORMAL)
        self._is_closed = True
        self._scope.deadline = anyio.current_time() + self._patience
        await self._send({"type": "websocket.close", "code": code, "reason": payload[2:].decode()})
        self._scope.deadline = anyio.current_time() + (FAULT_TIMEOUT if code in PEER_FAULTS else CLOSE_TIMEOUT)

    async def _close_going_away(self) -> None:
        """Tell the client that the server stops, which has cancelled the app. The server itself would close with 1011."""
        if self._is_gone or self._is_closed:
            return
        with anyio.move_on_after(GOING_AWAY_TIMEOUT, shield=True), contextlib.suppress(Exception):
            await self._close(self._control.farewell.payload())
