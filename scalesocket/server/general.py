"""The general lane: a client whose websocket is an ASGI connection.

One task reads and one writes, both owned by `GeneralClient.run`. The room, which never waits, puts batches into a queue for the
writer. The queue's bytes are `unsent`, which the room bounds by `send_buffer` and `slow_client`.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import anyio

from scalesocket.admission.control import Admission
from scalesocket.config.model import App
from scalesocket.edge.client import Client, Hold
from scalesocket.edge.limits import CLOSE_TIMEOUT, FAULT_TIMEOUT, find_high_water
from scalesocket.errors import BINARY_NOT_UTF8, PEER_FAULTS, Close, message_too_big
from scalesocket.wire.batch import Batch
from scalesocket.wire.frames import Opcode

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

FRAME_HEADER: Final = 4
"""Bytes counted for each message in addition to its payload, so that empty messages are bounded, too."""
MESSAGES_PER_ITERATION: Final = 64
"""Messages sent before the writer yields to the event loop: a server that takes them at once never makes it wait."""
GOING_AWAY_TIMEOUT: Final = 1.0
"""Seconds to send the close frame when the server is stopped before the gateway."""


class GeneralClient(Client):
    """An admitted ASGI websocket. `cut` aborts its connection, if the server supports that."""

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
        """Receive by `receive` and send by `send`; nothing is sent before `run`."""
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
        """Accept the websocket and serve it until it ends. Return whether the server has sent `websocket.disconnect`."""
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
            await self._close_going_away()
            raise
        finally:
            if self.throttle is not None:
                self.throttle.cancel()
            if refusal is None:
                self.room.leave(self)
        if not self._is_gone and self._cut is not None:
            self._cut()
        return self._is_gone

    # --- Calls of the room (Client)

    def send(self, batch: Batch) -> None:
        """Queue a batch. The room bounds the queue: it closes, waits for or skips a client with too many unsent bytes."""
        if self._close is not None:
            return
        self._queue.append(batch)
        self._unsent += sum(map(len, batch.payloads)) + FRAME_HEADER * len(batch.payloads)
        self._wake.set()
        if not self.is_congested and self._unsent > find_high_water(self._app):
            self.room.congested(self)

    def close(self, close: Close) -> None:
        """Close after what is queued, within `stall_timeout`; after a fault of the peer at once."""
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
        """End both tasks, and abort the connection if the server supports that."""
        self._scope.cancel()

    def ping(self) -> None:
        """Count the ping as answered. ASGI has no pings; Hypercorn sends its own (`hypercorn/context.py`)."""
        self.last_received_at = max(self.last_received_at, self.last_ping_at)

    def apply(self, app: App) -> None:
        """Use the live settings of an edited app."""
        self._app = app
        self.limit_rate(app.rate, self._loop.time())

    def pause_reading(self) -> None:
        """Stop receiving messages; the server then stops reading from the peer."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Receive messages again."""
        self._readable.set()

    @property
    def unsent(self) -> int:
        """Bytes that the server has not taken yet, frame headers included."""
        return self._unsent

    @property
    def backlog(self) -> int:
        """The same as `unsent`: the server's own buffers are not known."""
        return self._unsent

    @property
    def delivered(self) -> int:
        """Grows as the server takes what is queued."""
        return -self._unsent

    # --- The two tasks

    async def _write(self) -> None:
        """Send what is queued, then the close frame; then wait for the peer's close frame, in `_read`."""
        sent = 0
        while self._queue or self._close is None:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._queue.popleft()
            for payload in batch.payloads:
                await self._send(message_of(payload, batch.opcode))
                self._count_sent(len(payload) + FRAME_HEADER)
                sent += 1
                if not sent % MESSAGES_PER_ITERATION:
                    await asyncio.sleep(0)
        await self._send(close_message(self._close))
        wait = FAULT_TIMEOUT if self._close.code in PEER_FAULTS else CLOSE_TIMEOUT
        self._scope.deadline = anyio.current_time() + wait

    async def _read(self) -> None:
        """Pass messages to the room unless it holds this client; drop them while closing; end with the connection."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._is_gone = True
                self._scope.cancel()
                return
            await self._readable.wait()
            if self._close is None:
                self._deliver(event)

    def _deliver(self, event: AsgiMessage) -> None:
        """Check one message and pass it to the room."""
        now = self.last_received_at = self.last_message_at = self._loop.time()
        text: str | None = event.get("text")
        opcode, payload = (Opcode.BINARY, event["bytes"]) if text is None else (Opcode.TEXT, text.encode())
        if len(payload) > self._app.max_message:
            self.room.expel(self, message_too_big(self._app.max_message))
            return
        if opcode is Opcode.BINARY and not self._app.takes_binary:
            if not is_utf8(payload):
                self.room.expel(self, BINARY_NOT_UTF8)
                return
            opcode = Opcode.TEXT
        self.room.from_client(self, [(opcode, payload)])
        if self.throttle is not None and self._close is None:
            self.throttle.spend(1, len(payload), now)

    def _count_sent(self, size: int) -> None:
        """Note that the server has taken `size` bytes."""
        self._unsent -= size
        if self.is_congested and self._unsent <= find_high_water(self._app) // 4:
            self.room.drained(self)

    async def _close_going_away(self) -> None:
        """Tell the client that the server stops, which has cancelled the app. The server itself would close with 1011."""
        if self._is_gone or self._close is not None:
            return
        with anyio.move_on_after(GOING_AWAY_TIMEOUT, shield=True), contextlib.suppress(Exception):
            await self._send(close_message(self._admission.control.farewell))


def message_of(payload: bytes, opcode: Opcode) -> AsgiMessage:
    """Make the ASGI message of a message to the peer."""
    if opcode is Opcode.TEXT:
        return {"type": "websocket.send", "text": payload.decode()}
    return {"type": "websocket.send", "bytes": payload}


def close_message(close: Close) -> AsgiMessage:
    """Make the ASGI message of a close frame."""
    return {"type": "websocket.close", "code": int(close.code), "reason": close.payload()[2:].decode()}


def is_utf8(payload: bytes) -> bool:
    """Whether a payload is valid UTF-8."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
