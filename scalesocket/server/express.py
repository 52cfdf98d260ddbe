"""The express lane: a client whose websocket is a protocol on a transport, without a task or a queue in between."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from scalesocket.admission.control import Admission
from scalesocket.config.model import App
from scalesocket.config.units import KiB
from scalesocket.edge.client import Client, Hold
from scalesocket.edge.limits import find_high_water
from scalesocket.errors import PEER_FAULTS, PONG_MISSING, TOO_SLOW, Close
from scalesocket.server.closing import CloseDeadline, end_output
from scalesocket.server.kernel import count_acknowledged, count_unsent
from scalesocket.wire.batch import Batch
from scalesocket.wire.deflate import inflate
from scalesocket.wire.frame_reader import FrameReader
from scalesocket.wire.frames import Event, Opcode, encode_frame

LARGE_READ: Final = 64 * KiB
"""Bytes of one read above which a client is not read again in this event-loop iteration. `SocketTransport` never reads more."""

_PING: Final = encode_frame(b"", Opcode.PING)


class ExpressClient(Client, asyncio.Protocol):
    """A client on the express lane. It replaces the `NewConnection` on its transport after the response 101 was written."""

    __slots__ = ("_close_deadline", "_is_closing", "_loop", "_on_lost", "_reader", "_transport", "_window")

    def __init__(
        self,
        transport: asyncio.Transport,
        admission: Admission,
        *,
        window: int,
        on_lost: Callable[[asyncio.Transport], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Use `transport` for the websocket; `on_lost` is called with it when the connection is lost.

        `window`: the bits of the window of permessage-deflate; 0 if it was not agreed on.
        """
        super().__init__(admission.request, loop.time())
        app = admission.app
        self._transport = transport
        self._loop = loop
        self._on_lost = on_lost
        self._is_closing = False
        self._window = window
        self._close_deadline: CloseDeadline | None = None
        self._reader = FrameReader(
            max_message=app.max_message,
            binary_as_text=not app.takes_binary,
            inflate=inflate if window else None,
        )
        if app.rate is not None:
            self.limit_rate(app.rate, self.last_received_at)
        if not window:
            self.write = transport.write
        self._limit_buffer(app)

    def start_with(self, rest: bytes) -> None:
        """Read the bytes that followed the request head; later, if the room already holds its clients."""
        if self.held:
            self._reader.keep(rest)
        else:
            self.data_received(rest)

    # --- Callbacks of the transport (asyncio.Protocol)

    def data_received(self, chunk: bytes) -> None:
        """Decode frames and pass messages to the room."""
        now = self._loop.time()
        self.last_received_at = now
        reader = self._reader
        if reader.failure is not None:
            return  # read only so that no reset discards our close frame
        events = reader.feed(chunk)
        if reader.has_more or len(chunk) > LARGE_READ:
            # With TLS, libuv may read one peer 32 times in a row: a flood must not block the other connections.
            self.hold(Hold.YIELD)
            self._loop.call_soon(self.release, Hold.YIELD)
        if reader.has_control or reader.failure is not None or self._is_closing:
            self._handle_control(events, now)
        elif events:
            if self.throttle is None:  # nearly always
                self.last_message_at = now
                self.room.from_client(self, events)
            else:
                self._deliver_throttled(events, now)

    def pause_writing(self) -> None:
        """Notify the room that unsent bytes exceed the high-water mark."""
        if not self._is_closing:
            self.room.congested(self)

    def resume_writing(self) -> None:
        """Notify the room that unsent bytes are below the low-water mark."""
        if not self._is_closing:
            self.room.drained(self)

    def eof_received(self) -> None:
        """Leave the room: the peer ended its side without a close frame. Unsent bytes are still sent, within `stall_timeout`.

        If received messages still wait, the client leaves after they are delivered, in `connection_lost`.
        """
        if not self._reader.has_more:
            self._send_no_more()
            self.room.leave(self)
        if self.unsent:
            self._start_close_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Deliver the messages received before the connection was lost, and leave the room."""
        is_all_delivered = self._is_closing or not self._reader.has_more
        self._send_no_more()
        self.hold(Hold.DISCONNECTED)
        if self._close_deadline is not None:
            self._close_deadline.cancel()
            self._close_deadline = None
        if self.throttle is not None:
            self.throttle.cancel()
        if is_all_delivered:
            self._leave()
        else:
            self._deliver_rest()

    # --- Calls of the room (Client)

    def send(self, batch: Batch) -> None:
        """Write a batch, as frames that are encoded once for all clients."""
        if not self._is_closing:
            self._transport.write(batch.deflated_frames(self._window) if self._window else batch.frames)

    def close(self, close: Close) -> None:
        """Send a close frame, and wait for the peer's as long as `CloseDeadline` allows; not after a fault of the peer.

        A peer that answers no pings is gone, or will not answer this either. Its descriptor is closed once the kernel, which goes
        on to send what it has, has taken the close frame.
        """
        if self._is_closing:
            return
        self._send_no_more()
        self._transport.write(encode_frame(close.payload(), Opcode.CLOSE))
        if self.held:
            self.held = Hold(0)
            self.resume_reading()  # to receive the peer's close frame
        self._start_close_deadline(is_peer_gone=close == PONG_MISSING)
        if close == PONG_MISSING:
            self._transport.close()
        elif close.code in PEER_FAULTS:
            end_output(self._transport)

    def abort(self) -> None:
        """Abort the connection."""
        self._send_no_more()
        self._transport.abort()

    def ping(self) -> None:
        """Send a ping."""
        if not self._is_closing:
            self._transport.write(_PING)

    def apply(self, app: App) -> None:
        """Use the live settings of an edited app."""
        self._reader.max_message = app.max_message
        self.limit_rate(app.rate, self._loop.time())
        self._limit_buffer(app)

    def pause_reading(self) -> None:
        """Stop reading, so that TCP slows down the peer."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again. Received bytes that wait come first, in the next iteration: the caller may be iterating over clients."""
        if self._reader.has_more:
            self._loop.call_soon(self._continue_reading)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def backlog(self) -> int:
        """Unsent bytes in the transport and in the kernel."""
        sock = self._transport.get_extra_info("socket")
        return self.unsent + (count_unsent(sock) if sock is not None else 0)

    @property
    def delivered(self) -> int:
        """Bytes that the peer's kernel has acknowledged. On a unix socket: a number that grows as the kernel takes bytes."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX:
            return -self.unsent
        return count_acknowledged(sock)

    # --- Receiving

    def _continue_reading(self) -> None:
        """Decode more of the received bytes, and read from the transport when none are left."""
        if self.held:
            return
        if self._reader.has_more:
            self.data_received(b"")
        if not self.held and not self._transport.is_closing():
            self._transport.resume_reading()

    def _deliver_rest(self) -> None:
        """Deliver the messages received before the connection was lost, a bounded number in each event-loop iteration."""
        reader, room = self._reader, self.room
        messages = [event for event in reader.feed(b"") if event[0] < Opcode.CLOSE]
        if self.id in room.clients:  # the room may have ended meanwhile
            if messages:
                room.from_client(self, messages)
            if reader.has_more:
                self._loop.call_soon(self._deliver_rest)
                return
        self._leave()

    def _leave(self) -> None:
        self.room.leave(self)
        self._on_lost(self._transport)

    def _handle_control(self, events: list[Event], now: float) -> None:
        """Handle events that include control frames, or after which the peer broke the protocol."""
        messages: list[Event] = []
        pongs: list[bytes] = []
        for event in events:
            opcode, payload = event
            if opcode is Opcode.PING:
                pongs.append(encode_frame(payload, Opcode.PONG))
            elif opcode is Opcode.CLOSE:
                self._send_pongs(pongs)
                self._deliver(messages, now)
                self._finish_closing(payload)
                return
            elif opcode is not Opcode.PONG:
                messages.append(event)
        self._send_pongs(pongs)
        self._deliver(messages, now)
        if self._reader.failure is not None:
            self.room.expel(self, self._reader.failure)

    def _deliver(self, messages: list[Event], now: float) -> None:
        if messages and not self._is_closing:
            self._deliver_throttled(messages, now)

    def _deliver_throttled(self, messages: list[Event], now: float) -> None:
        self.last_message_at = now
        self.room.from_client(self, messages)
        if self.throttle is not None and not self._is_closing:
            self.throttle.spend(len(messages), sum(len(payload) for _, payload in messages), now)

    def _send_pongs(self, pongs: list[bytes]) -> None:
        """Answer the pings of one read (RFC 6455 5.5.3). Close a client that takes no pongs, so that they do not pile up."""
        if not pongs or self._is_closing:
            return
        if self.is_congested and self.unsent > self.room.app.send_buffer + self.allowance:
            self.room.expel(self, TOO_SLOW)
            return
        self._transport.write(b"".join(pongs))

    # --- Closing

    def _finish_closing(self, payload: bytes) -> None:
        """Close the connection after the peer's close frame. Unless that answers ours, echo its code first (RFC 6455 5.5.1)."""
        if not self._is_closing:
            self._send_no_more()
            self._transport.write(encode_frame(payload[:2], Opcode.CLOSE))
        self.room.leave(self)
        self._transport.close()
        if self.unsent:
            self._start_close_deadline()

    def _send_no_more(self) -> None:
        """Send no further message: our close frame was sent (RFC 6455 5.5.1), or the connection was lost."""
        self._is_closing = True
        self.write = None

    def _start_close_deadline(self, *, is_peer_gone: bool = False) -> None:
        if self._close_deadline is None:
            self._close_deadline = CloseDeadline(self, self._transport, self._loop, is_peer_gone=is_peer_gone)

    def _limit_buffer(self, app: App) -> None:
        high = find_high_water(app)
        self._transport.set_write_buffer_limits(high=high, low=high // 4)
