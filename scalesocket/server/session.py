"""A websocket of the general lane: an ASGI connection as a client of its room.

One task reads and one writes, both owned by `Session.run`. Between the room, which never waits, and the writer stands a
queue of batches; its bytes are what the room sees as `unsent`, judges by `send_buffer` and `slow_client`, and so bounds.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import anyio

from scalesocket.config.model import App, Routing
from scalesocket.config.units import KiB
from scalesocket.errors import SHUTTING_DOWN, Close, CloseCode
from scalesocket.rooms.client import Client
from scalesocket.wire.batch import Batch
from scalesocket.wire.frames import Opcode
from scalesocket.wire.handshake import Request

if TYPE_CHECKING:
    from scalesocket.gateway import Admission

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

HIGH_WATER: Final = 256 * KiB
"""Unsent bytes above which the room is told that this client is congested; less if `send_buffer` is."""
CLOSE_TIMEOUT: Final = 2.0
"""Seconds the peer has to answer our close frame."""
FLUSH_TIMEOUT: Final = 10.0
"""Seconds to take what was queued before our close frame."""
FAREWELL_TIMEOUT: Final = 1.0
"""Seconds to say 1001 when the server around us ends before the gateway did."""

TOO_BIG: Final = Close(CloseCode.TOO_BIG, "a message is longer than max_message")
NOT_TEXT: Final = Close(CloseCode.INVALID_DATA, "a binary message is not UTF-8, and this app takes text")
FAULTS: Final = frozenset({CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.TOO_BIG})
"""After these the connection is cut at once: what a peer sends that breaks the rules is not worth waiting for."""


class Session(Client):
    """One accepted ASGI websocket. `cut` drops its connection without a word, where the server can do that."""

    __slots__ = ("_close", "_cut", "_is_gone", "_queue", "_readable", "_receive", "_scope", "_send", "_unsent", "_wake")

    def __init__(self, request: Request, receive: Receive, send: Send, *, cut: Callable[[], None] | None = None) -> None:
        super().__init__(remote=request.remote, query=request.query, now=asyncio.get_running_loop().time())
        self._receive = receive
        self._send = send
        self._cut = cut
        self._queue: deque[Batch] = deque()
        self._unsent = 0
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._scope = anyio.CancelScope()
        self._close: Close | None = None
        self._is_gone = False

    async def run(self, admission: "Admission") -> bool:
        """Accept the websocket and stay until it is over. True when the server said so by `websocket.disconnect`."""
        await self._send({"type": "websocket.accept"})
        refusal = admission.join(self)
        if refusal is not None:
            self.close(refusal)
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read, name="read")
                    await self._write()
        except asyncio.CancelledError:
            await self._say_farewell()
            raise
        finally:
            if refusal is None:
                self.room.leave(self)
        if not self._is_gone and self._cut is not None:
            self._cut()
        return self._is_gone

    # --- Client: what the room asks for

    def send(self, batch: Batch) -> None:
        """Queue a batch. The queue is bounded by the room, which closes, blocks or skips a client with too much unsent."""
        if self._close is not None:
            return
        self._queue.append(batch)
        self._unsent += sum(map(len, batch.payloads))
        self._wake.set()
        if not self.is_congested and self._unsent > self._high_water():
            self.room.congested(self)

    def close(self, close: Close) -> None:
        """Close after what is queued, for which the client has FLUSH_TIMEOUT, or at once when it broke the rules."""
        if self._close is not None:
            return
        self._close = close
        if close.code in FAULTS:
            self._queue.clear()
        self._scope.deadline = anyio.current_time() + FLUSH_TIMEOUT
        self._readable.set()
        self._wake.set()

    def abort(self) -> None:
        """End both tasks, and cut the connection where the server can."""
        self._scope.cancel()

    def ping(self) -> None:
        """Do nothing but take the pong for granted: ASGI has neither. The server pings by itself (`handover.py`)."""
        self.heard_at = max(self.heard_at, self.pinged_at)

    def pause_reading(self) -> None:
        """Take no more messages from the server, which then reads no more from the peer."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Take messages again."""
        self._readable.set()

    @property
    def unsent(self) -> int:
        """Payload bytes the server has not taken yet."""
        return self._unsent

    # --- The two tasks

    async def _write(self) -> None:
        """Send what is queued, then the close frame; then the reader waits for the peer's."""
        while self._queue or self._close is None:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._queue.popleft()
            for payload in batch.payloads:
                await self._send(message_of(payload, batch.opcode))
                self._took(len(payload))
        await self._send({"type": "websocket.close", "code": int(self._close.code), "reason": self._close.reason})
        wait = 0.0 if self._close.code in FAULTS else CLOSE_TIMEOUT
        self._scope.deadline = anyio.current_time() + wait

    async def _read(self) -> None:
        """Give messages to the room while it wants them; discard them while closing; end with the connection."""
        loop = asyncio.get_running_loop()
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._is_gone = True
                self._scope.cancel()
                return
            await self._readable.wait()
            if self._close is None:
                self.heard_at = self.said_at = loop.time()
                self._hear(event)

    def _hear(self, event: AsgiMessage) -> None:
        """Check one message and pass it on."""
        app = self.room.app
        text: str | None = event.get("text")
        opcode, payload = (Opcode.BINARY, event["bytes"]) if text is None else (Opcode.TEXT, text.encode())
        if len(payload) > app.max_message:
            self.room.expel(self, TOO_BIG)
            return
        if opcode is Opcode.BINARY and not takes_binary(app):
            if not is_utf8(payload):
                self.room.expel(self, NOT_TEXT)
                return
            opcode = Opcode.TEXT
        self.room.from_client(self, [(opcode, payload)])

    def _took(self, size: int) -> None:
        """Note that the server took so many bytes of payload."""
        self._unsent -= size
        if self.is_congested and self._unsent <= self._high_water() // 4:
            self.room.drained(self)

    def _high_water(self) -> int:
        return min(HIGH_WATER, self.room.app.send_buffer)

    async def _say_farewell(self) -> None:
        """Close with 1001, not with the 1011 a server says for an app that returns: it is ending, and we with it."""
        if self._is_gone or self._close is not None:
            return
        with anyio.move_on_after(FAREWELL_TIMEOUT, shield=True), contextlib.suppress(Exception):
            await self._send({"type": "websocket.close", "code": int(SHUTTING_DOWN.code), "reason": SHUTTING_DOWN.reason})


def message_of(payload: bytes, opcode: Opcode) -> AsgiMessage:
    """One message to the peer, as ASGI says it."""
    if opcode is Opcode.TEXT:
        return {"type": "websocket.send", "text": payload.decode()}
    return {"type": "websocket.send", "bytes": payload}


def takes_binary(app: App) -> bool:
    """Whether binary messages stay binary on their way to the backend."""
    return app.binary or app.routing.client is Routing.GWSOCKET


def is_utf8(payload: bytes) -> bool:
    """Whether a binary message can be taken as text."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
