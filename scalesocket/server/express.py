"""The express lane: one websocket on a transport, RFC 6455 without a task, a queue or a copy in between."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from scalesocket.config.model import App
from scalesocket.config.units import KiB
from scalesocket.edge.client import Client, Hold
from scalesocket.edge.limits import CLOSE_TIMEOUT, find_high_water
from scalesocket.errors import PEER_FAULTS, TOO_SLOW, Close
from scalesocket.gateway import Admission
from scalesocket.server.kernel import count_acknowledged, count_unsent
from scalesocket.wire.batch import Batch
from scalesocket.wire.deflate import inflate
from scalesocket.wire.frames import Event, FrameReader, Opcode, encode_frame

LARGE_READ: Final = 64 * KiB
"""Bytes of one read past which a client waits for the others' turn; our own transport reads no more, once in a turn."""

_PING: Final = encode_frame(b"", Opcode.PING)


class ExpressClient(Client, asyncio.Protocol):
    """One websocket. The door puts it on a transport in place of itself, when it has written the 101."""

    __slots__ = ("_is_closing", "_is_deflated", "_loop", "_on_lost", "_reader", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        admission: Admission,
        *,
        is_deflated: bool,
        on_lost: Callable[[asyncio.Transport], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Speak RFC 6455 on `transport`; `on_lost` hears when the connection is gone."""
        super().__init__(admission.request, loop.time())
        app = admission.app
        self._transport = transport
        self._loop = loop
        self._on_lost = on_lost
        self._is_closing = False
        self._is_deflated = is_deflated
        self._timer: asyncio.TimerHandle | None = None
        self._reader = FrameReader(
            max_message=app.max_message,
            binary_as_text=not app.takes_binary,
            inflate=inflate if is_deflated else None,
        )
        if app.rate is not None:
            self.limit_rate(app.rate, self.last_received_at)
        if not is_deflated:
            self.write = transport.write
        self._limit_buffer(app)

    def start_with(self, rest: bytes) -> None:
        """Read what came along with the request head, once it is to be read: the room may have its clients wait."""
        if self.held:
            self._reader.keep(rest)
        else:
            self.data_received(rest)

    # --- The transport speaks (asyncio.Protocol)

    def data_received(self, chunk: bytes) -> None:
        """Read frames."""
        now = self._loop.time()
        self.last_received_at = now
        reader = self._reader
        if reader.failure is not None:
            return  # only read on so that our close frame is not lost to a reset
        events = reader.feed(chunk)
        if reader.has_more or len(chunk) > LARGE_READ:
            # Behind TLS libuv would read one peer up to 32 times in a row: a flood may not keep everyone else waiting.
            self.hold(Hold.YIELD)
            self._loop.call_soon(self.release, Hold.YIELD)
        if reader.has_control or reader.failure is not None or self._is_closing:
            self._handle(events, now)
        elif events:
            if self.throttle is None:  # nearly always
                self.last_message_at = now
                self.room.from_client(self, events)
            else:
                self._said(events, now)

    def pause_writing(self) -> None:
        """Tell the room that unsent bytes passed the high-water mark."""
        if not self._is_closing:
            self.room.congested(self)

    def resume_writing(self) -> None:
        """Tell the room that they fell below the low-water mark."""
        if not self._is_closing:
            self.room.drained(self)

    def eof_received(self) -> None:
        """Leave the room: without a close frame nothing more can be agreed on. What is still unsent has `stall_timeout` to go.

        Messages that were read and have to wait are delivered first, when the connection is lost.
        """
        if not self._reader.has_more:
            self._send_no_more()
            self.room.leave(self)
        if self.unsent and self._timer is None:
            self._cut_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the room once it has heard all that was read; the peer is gone, or the closing handshake is done."""
        is_heard_out = self._is_closing or not self._reader.has_more
        self._send_no_more()
        self.hold(Hold.DISCONNECTED)
        if self._timer is not None:
            self._timer.cancel()
        if self.throttle is not None:
            self.throttle.cancel()
        if is_heard_out:
            self._leave()
        else:
            self._take_rest()

    # --- The room speaks (Client)

    def send(self, batch: Batch) -> None:
        """Write a batch: one write, of frames that were encoded once for all."""
        if not self._is_closing:
            self._transport.write(batch.deflated_frames if self._is_deflated else batch.frames)

    def close(self, close: Close) -> None:
        """Send a close frame; the peer has `CLOSE_TIMEOUT` to answer, once it could read it."""
        if self._is_closing:
            return
        self._send_no_more()
        self._transport.write(encode_frame(close.payload(), Opcode.CLOSE))
        if self.held:
            self.held = Hold(0)
            self.resume_reading()  # to see the answer
        self._cut_later()
        if close.code in PEER_FAULTS:
            self._end()

    def abort(self) -> None:
        """Cut the connection."""
        self._send_no_more()
        self._transport.abort()

    def ping(self) -> None:
        """Send a ping."""
        if not self._is_closing:
            self._transport.write(_PING)

    def apply(self, app: App) -> None:
        """Take on live changes."""
        self._reader.max_message = app.max_message
        self.limit_rate(app.rate, self._loop.time())
        self._limit_buffer(app)

    def pause_reading(self) -> None:
        """Read no more, so that TCP pushes back."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, first what was read and not looked at yet: soon, as who calls may be going through all clients."""
        if self._reader.has_more:
            self._loop.call_soon(self._go_on)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def unsent(self) -> int:
        """Bytes the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def backlog(self) -> int:
        """Bytes queued for the peer here and in the kernel."""
        sock = self._transport.get_extra_info("socket")
        return self.unsent + (count_unsent(sock) if sock is not None else 0)

    @property
    def delivered(self) -> int:
        """Bytes the peer's kernel has acknowledged, or less exactly, on a unix socket, those ours has taken."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX:
            return -self.unsent
        return count_acknowledged(sock)

    # --- In between

    def _go_on(self) -> None:
        """Look at more of what was read, and read on when nothing is left of it."""
        if self.held:
            return
        if self._reader.has_more:
            self.data_received(b"")
        if not self.held and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_rest(self) -> None:
        """Give the room what was read before the connection went, some of it a turn. Nobody is there to be answered."""
        reader, room = self._reader, self.room
        messages = [event for event in reader.feed(b"") if event[0] < Opcode.CLOSE]
        if self.id in room.clients:  # it may have ended meanwhile
            if messages:
                room.from_client(self, messages)
            if reader.has_more:
                self._loop.call_soon(self._take_rest)
                return
        self._leave()

    def _leave(self) -> None:
        self.room.leave(self)
        self._on_lost(self._transport)

    def _said(self, messages: list[Event], now: float) -> None:
        self.last_message_at = now
        self.room.from_client(self, messages)
        if self.throttle is not None and not self._is_closing:
            self.throttle.spend(len(messages), sum(len(payload) for _, payload in messages), now)

    def _handle(self, events: list[Event], now: float) -> None:
        """Act on events among which are control frames, or after which the protocol was broken."""
        messages: list[Event] = []
        pongs: list[bytes] = []
        for event in events:
            opcode, payload = event
            if opcode is Opcode.PING:
                pongs.append(encode_frame(payload, Opcode.PONG))
            elif opcode is Opcode.CLOSE:
                self._answer(pongs)
                self._pass_on(messages, now)
                self._closed_by_peer(payload)
                return
            elif opcode is not Opcode.PONG:
                messages.append(event)
        self._answer(pongs)
        self._pass_on(messages, now)
        if self._reader.failure is not None:
            self.room.expel(self, self._reader.failure)

    def _pass_on(self, messages: list[Event], now: float) -> None:
        if messages and not self._is_closing:
            self._said(messages, now)

    def _answer(self, pongs: list[bytes]) -> None:
        """Answer pings (RFC 6455 5.5.3), those of one read at once, but not for ever to a peer that does not read the answers."""
        if not pongs or self._is_closing:
            return
        if self.is_congested and self.unsent > self.room.app.send_buffer + self.allowance:
            self.room.expel(self, TOO_SLOW)
            return
        self._transport.write(b"".join(pongs))

    def _closed_by_peer(self, payload: bytes) -> None:
        """Answer a close frame with its own code (RFC 6455 5.5.1), unless it answers ours, and end the connection."""
        if not self._is_closing:
            self._send_no_more()
            self._transport.write(encode_frame(payload[:2], Opcode.CLOSE))
        self.room.leave(self)
        self._transport.close()
        if self.unsent and self._timer is None:
            self._cut_later()

    def _send_no_more(self) -> None:
        """No message goes out after our close frame (RFC 6455 5.5.1), nor after the connection is gone."""
        self._is_closing = True
        self.write = None

    def _end(self) -> None:
        """End our side only, and drop what the peer still sends.

        To close the connection while something is unread would reset it and lose the close frame (RFC 9293 3.10.4).
        """
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _cut_later(self) -> None:
        """End the connection unless the peer does so in time: what was sent before the close frame may take long to read."""
        patience = self.room.app.stall_timeout
        self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._cut, self.delivered, self._loop.time() + patience)

    def _cut(self, delivered: int, deadline: float) -> None:
        """End our side if the peer could read everything and did not answer; cut it if it has read nothing for `stall_timeout`.

        What the kernel still has to deliver, it delivers: only `abort` would lose it.
        """
        now = self._loop.time()
        if self.delivered != delivered:
            deadline = now + self.room.app.stall_timeout
        elif now >= deadline:
            self._transport.abort()
            return
        if not self.unsent and not self._transport.is_closing():
            self._end()
        self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._cut, self.delivered, deadline)

    def _limit_buffer(self, app: App) -> None:
        high = find_high_water(app)
        self._transport.set_write_buffer_limits(high=high, low=high // 4)
