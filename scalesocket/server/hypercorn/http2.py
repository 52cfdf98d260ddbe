"""Hypercorn's HTTP/2, with bounds on what one peer may cost."""

import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from typing import Final, cast

import anyio
import anyio.lowlevel
import h2.events
import structlog
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h2 import BufferCompleteError, H2Protocol
from priority.priority import DeadlockError, DuplicateStreamError, MissingStreamError

from scalesocket.admission.proxies import is_trusted
from scalesocket.config.model import Server
from scalesocket.config.units import MiB
from scalesocket.gateway import Gateway
from scalesocket.server.hypercorn.context import wake_idle
from scalesocket.server.hypercorn.outgoing_stream import OutgoingStream, is_control_frame
from scalesocket.server.hypercorn.state import CUT
from scalesocket.server.security_headers import OWN_FIELDS, add_missing
from scalesocket.wire.address import is_loopback
from scalesocket.wire.http2 import ErrorCode, FrameFilter, Http2Error, encode_refusal

log = structlog.get_logger("http2")

GOAWAY_TIMEOUT: Final = 1.0
"""Seconds between a GOAWAY frame, which has the reason, and the end of the connection."""
LAST_READ: Final = 16 * MiB
"""Bytes that are read and dropped after a GOAWAY frame, so that no reset overtakes it; then the connection ends at once."""
NO_WEBSOCKETS: Final = "websockets over HTTP/2 are off: open them over HTTP/1.1, or set http2_websockets = true in [server]"
NO_TUNNELS: Final = "CONNECT is for websockets only (RFC 8441): there is no proxy here"
NO_HTTP2: Final = "HTTP/2 without TLS is only for loopback and trusted_proxies: use HTTP/1.1 or TLS"


class RoundRobin:
    """Chooses the next stream to send, in rotation among those with data. PRIORITY is ignored.

    Replaces the tree of the `priority` package, which peers arrange, and in which one step may visit every stream.
    """

    def __init__(self) -> None:
        self._active: OrderedDict[int, None] = OrderedDict()
        self._blocked: set[int] = set()

    def insert_stream(self, stream: int) -> None:
        """Add a stream. Raises DuplicateStreamError."""
        if stream in self._active or stream in self._blocked:
            raise DuplicateStreamError(stream)
        self._active[stream] = None

    def remove_stream(self, stream: int) -> None:
        """Forget a stream. Raises MissingStreamError."""
        self.block(stream)
        self._blocked.discard(stream)

    def block(self, stream: int) -> None:
        """Skip a stream that has nothing to send. Raises MissingStreamError."""
        if stream in self._active:
            del self._active[stream]
            self._blocked.add(stream)
        elif stream not in self._blocked:
            raise MissingStreamError(stream)

    def unblock(self, stream: int) -> None:
        """Include a stream again. Raises MissingStreamError."""
        if stream in self._blocked:
            self._blocked.discard(stream)
            self._active[stream] = None
        elif stream not in self._active:
            raise MissingStreamError(stream)

    def __next__(self) -> int:
        """Return the stream that has waited longest. Raises DeadlockError if all are blocked."""
        if not self._active:
            raise DeadlockError
        stream = next(iter(self._active))
        self._active.move_to_end(stream)
        return stream


class KnownSettings(Settings):
    """A peer's settings. Unknown ones are dropped: a peer may send 65,000 of them."""

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        """Store a known setting."""
        if isinstance(key, SettingCodes) or key in SettingCodes._value2member_map_:
            super().__setitem__(key, value)


class Http2(H2Protocol):
    """HTTP/2 that reads a connection in small pieces and cuts a flood, so that one peer does not block the others."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._gateway = getattr(getattr(self.app, "app", None), "gateway", None)  # None if another ASGI app wraps ours
        self._server = self._gateway.site.server if isinstance(self._gateway, Gateway) else Server()
        self._offers_websockets = self._server.http2_websockets
        if not self._offers_websockets:
            del self.connection.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        self._peer = self.client[0] if self.client is not None else ""
        self._is_over = False
        self._left = anyio.Event()
        self._unread = LAST_READ
        self._inflow = FrameFilter(self.streams, time.monotonic())
        self.priority = RoundRobin()  # type: ignore[assignment]
        self.connection.remote_settings = KnownSettings(client=True)

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Start; without TLS only for a trusted proxy, or a peer on the same machine."""
        if self.ssl or self.client is None or is_loopback(self._peer) or is_trusted(self._peer, self._server.trusted_proxies):
            await super().initiate(headers, settings)
        else:
            log.info("HTTP/2 without TLS refused", peer=self._peer)
            await self._end(encode_refusal(ErrorCode.HTTP_1_1_REQUIRED, NO_HTTP2))

    async def handle(self, event: Event) -> None:
        """Handle received bytes, piece by piece, or the end of the connection."""
        if not isinstance(event, RawData):
            self._left.set()
            await self._end_streams()
            await wake_idle(self.context.terminated)
            return
        try:
            for piece in self._inflow.split(event.data, time.monotonic()):
                if self._is_over:
                    break
                if piece:
                    await self._handle_events(self.connection.receive_data(piece))
                await anyio.lowlevel.checkpoint()
        except Http2Error as error:
            log.info("HTTP/2 connection cut", peer=self._peer, error=error.code.name, reason=error.message)
            self.connection.close_connection(error.code, error.message.encode())
            await self._end(self.connection.data_to_send())
        except ProtocolError:  # h2 has prepared a GOAWAY frame
            await self._end(self.connection.data_to_send())
        if self._is_over:
            self._unread -= len(event.data)
            if self._unread < 0:
                await self._close()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        """Handle events of h2. Data for a stream whose response is complete resets the stream (RFC 9113 8.1)."""
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                with suppress(ProtocolError):  # it was reset already
                    self.connection.reset_stream(event.stream_id or 0, ErrorCode.NO_ERROR)
            else:
                await super()._handle_events([event])
        await self._flush()

    async def _flush(self) -> None:
        """Send the frames that h2 has prepared."""
        if data := self.connection.data_to_send():
            self._inflow.sent(len(data))
            await self.send(RawData(data))

    async def stream_send(self, event: StreamEvent) -> None:
        """Send data of a stream. Messages and files wait for the peer's window; control frames of websockets do not."""
        if isinstance(event, Response):  # Hypercorn's own errors have no security headers yet
            event = replace(event, headers=add_missing(event.headers))
        waiting = self.stream_buffers.get(event.stream_id)
        if waiting is None or not is_control_frame(event):
            await super().stream_send(event)
            return
        with suppress(MissingStreamError, BufferCompleteError):  # it has ended
            self.priority.unblock(event.stream_id)
            await self.has_data.set()
            await cast(OutgoingStream, waiting).push_control(event.data)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        """Start a request. Refuse CONNECT, except for a websocket where those are on."""
        fields = dict(request.headers or ())
        is_websocket = fields.get(b":protocol") == b"websocket" and b":path" in fields
        if fields.get(b":method") != b"CONNECT" or (is_websocket and self._offers_websockets):
            await super()._create_stream(request)
            return
        if isinstance(self._gateway, Gateway):
            self._gateway.refusals["http2_connect"] += 1
        await self._refuse(request.stream_id or 0, NO_WEBSOCKETS if is_websocket else NO_TUNNELS)

    async def _refuse(self, stream: int, message: str) -> None:
        """Answer a request with 501 and ignore the rest of it."""
        body = f"{message}\n".encode()
        headers = [(b":status", b"501"), (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        self.connection.send_headers(stream, [*headers, *OWN_FIELDS])
        if self.connection.local_flow_control_window(stream) >= len(body):
            self.connection.send_data(stream, body, end_stream=True)
        with suppress(ProtocolError):  # it was ended by both sides already
            self.connection.reset_stream(stream, ErrorCode.NO_ERROR)
        await self._flush()

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """Ignore priorities in HEADERS (RFC 9113 5.3.2)."""

    async def _end(self, last: bytes) -> None:
        """End all streams, send the last bytes, and close the connection after `GOAWAY_TIMEOUT`.

        Until then input is read and dropped: closing with unread input sends a reset, which can discard the last bytes.
        """
        self._is_over = True
        await self._end_streams()
        self.task_group.spawn(self._close_later)
        if last:
            await self.send(RawData(last))

    async def _end_streams(self) -> None:
        """End all streams, and wake what waits for their data to be sent."""
        await super().handle(Closed())
        for waiting in tuple(self.stream_buffers.values()):
            await waiting.close()

    async def _close_later(self) -> None:
        with anyio.move_on_after(GOAWAY_TIMEOUT):
            await self._left.wait()
        await self._close()

    async def _close(self) -> None:
        """Close the connection, if possible without waiting for unsent bytes."""
        cut = self.connection_state.get(CUT)
        if cut is not None:
            cut()
        else:
            await self.send(Closed())
