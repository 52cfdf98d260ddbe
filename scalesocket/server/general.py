"""A websocket of the general lane: an ASGI connection as a client of its room.

One task reads and one writes, both owned by `GeneralClient.run`. Between the room, which never waits, and the writer stands a
queue of batches; its bytes are what the room sees as `unsent`, judges by `send_buffer` and `slow_client`, and so bounds.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import anyio

from scalesocket.config.model import App
from scalesocket.edge.client import Client, Hold
from scalesocket.edge.limits import CLOSE_TIMEOUT, find_high_water
from scalesocket.errors import BINARY_IS_NO_TEXT, PEER_FAULTS, SHUTTING_DOWN, Close, message_too_big
from scalesocket.gateway import Admission
from scalesocket.wire.batch import Batch
from scalesocket.wire.frames import Opcode

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

FRAME_HEADER: Final = 4
"""Bytes counted for each message beside its payload, so that empty ones, too, are bounded: its frame's header, for most."""
MESSAGES_A_TURN: Final = 64
"""Messages sent before others have their turn: nothing else would interrupt a crowd that the server takes at once."""
FAULT_TIMEOUT: Final = 0.25
"""The same after a fault of the peer: only so long that what it still sends does not reset the connection before it could
read why (RFC 9293 3.10.4)."""
FAREWELL_TIMEOUT: Final = 1.0
"""Seconds to say 1001 when the server around us ends before the gateway did."""


class GeneralClient(Client):
    """One ASGI websocket that was admitted. `cut` drops its connection without a word, where the server can do that."""

    __slots__ = (
        "_admission",
        "_app",
        "_close",
        "_cut",
        "_is_gone",
        "_loop",
        "_queue",
        "_readable",
        "_receive",
        "_scope",
        "_send",
        "_unsent",
        "_wake",
    )

    def __init__(self, admission: Admission, receive: Receive, send: Send, *, cut: Callable[[], None] | None = None) -> None:
        """Speak through `receive` and `send`; nothing is sent before `run`."""
        self._loop = asyncio.get_running_loop()
        super().__init__(admission.request, self._loop.time())
        self._admission = admission
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
        self._app = admission.app
        self.apply(admission.app)

    async def run(self) -> bool:
        """Accept the websocket and stay until it is over. True when the server said so by `websocket.disconnect`."""
        await self._send({"type": "websocket.accept", "subprotocol": self._admission.subprotocol})
        refusal = self._admission.join(self)
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
            if self.throttle is not None:
                self.throttle.cancel()
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
        self._unsent += sum(map(len, batch.payloads)) + FRAME_HEADER * len(batch.payloads)
        self._wake.set()
        if not self.is_congested and self._unsent > find_high_water(self._app):
            self.room.congested(self)

    def close(self, close: Close) -> None:
        """Close after what is queued, for which the client has `stall_timeout`, or at once when it broke the rules."""
        if self._close is not None:
            return
        self._close = close
        if close.code in PEER_FAULTS:
            self._queue.clear()
        self._scope.deadline = anyio.current_time() + self._app.stall_timeout
        self.held = Hold(0)
        self._readable.set()
        self._wake.set()

    def abort(self) -> None:
        """End both tasks, and cut the connection where the server can."""
        self._scope.cancel()

    def ping(self) -> None:
        """Do nothing but take the pong for granted: ASGI has neither. The server pings by itself (`hypercorn/server.py`)."""
        self.last_received_at = max(self.last_received_at, self.last_ping_at)

    def apply(self, app: App) -> None:
        """Take on live changes."""
        self._app = app
        self.limit_rate(app.rate, self._loop.time())

    def pause_reading(self) -> None:
        """Take no more messages from the server, which then reads no more from the peer."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Take messages again."""
        self._readable.set()

    @property
    def unsent(self) -> int:
        """Bytes the server has not taken yet, headers included."""
        return self._unsent

    @property
    def backlog(self) -> int:
        """Bytes the server has not taken: more is not known here."""
        return self._unsent

    @property
    def delivered(self) -> int:
        """Grows as the server takes what is queued."""
        return -self._unsent

    # --- The two tasks

    async def _write(self) -> None:
        """Send what is queued, then the close frame; then the reader waits for the peer's."""
        sent = 0
        while self._queue or self._close is None:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._queue.popleft()
            for payload in batch.payloads:
                await self._send(message_of(payload, batch.opcode))
                self._took(len(payload) + FRAME_HEADER)
                sent += 1
                if not sent % MESSAGES_A_TURN:
                    await asyncio.sleep(0)
        await self._send(close_message(self._close))
        wait = FAULT_TIMEOUT if self._close.code in PEER_FAULTS else CLOSE_TIMEOUT
        self._scope.deadline = anyio.current_time() + wait

    async def _read(self) -> None:
        """Give messages to the room while it wants them; discard them while closing; end with the connection."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._is_gone = True
                self._scope.cancel()
                return
            await self._readable.wait()
            if self._close is None:
                self._hear(event)

    def _hear(self, event: AsgiMessage) -> None:
        """Check one message and pass it on."""
        now = self.last_received_at = self.last_message_at = self._loop.time()
        text: str | None = event.get("text")
        opcode, payload = (Opcode.BINARY, event["bytes"]) if text is None else (Opcode.TEXT, text.encode())
        if len(payload) > self._app.max_message:
            self.room.expel(self, message_too_big(self._app.max_message))
            return
        if opcode is Opcode.BINARY and not self._app.takes_binary:
            if not is_utf8(payload):
                self.room.expel(self, BINARY_IS_NO_TEXT)
                return
            opcode = Opcode.TEXT
        self.room.from_client(self, [(opcode, payload)])
        if self.throttle is not None and self._close is None:
            self.throttle.spend(1, len(payload), now)

    def _took(self, size: int) -> None:
        """Note that the server took so many bytes."""
        self._unsent -= size
        if self.is_congested and self._unsent <= find_high_water(self._app) // 4:
            self.room.drained(self)

    async def _say_farewell(self) -> None:
        """Close with 1001, not with the 1011 a server says for an app that returns: it is ending, and we with it."""
        if self._is_gone or self._close is not None:
            return
        with anyio.move_on_after(FAREWELL_TIMEOUT, shield=True), contextlib.suppress(Exception):
            await self._send(close_message(SHUTTING_DOWN))


def message_of(payload: bytes, opcode: Opcode) -> AsgiMessage:
    """One message to the peer, as ASGI says it."""
    if opcode is Opcode.TEXT:
        return {"type": "websocket.send", "text": payload.decode()}
    return {"type": "websocket.send", "bytes": payload}


def close_message(close: Close) -> AsgiMessage:
    """A close frame, as ASGI says it."""
    return {"type": "websocket.close", "code": int(close.code), "reason": close.payload()[2:].decode()}


def is_utf8(payload: bytes) -> bool:
    """Whether a binary message can be taken as text."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
