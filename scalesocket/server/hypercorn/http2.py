"""Hypercorn's HTTP/1.1 and HTTP/2 protocols, with bounds on what one peer may cost.

Hypercorn makes its protocols by name, so `install_protocols` puts these in their place, for the general lane and for a
stock Hypercorn that runs our app.
"""

import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final, cast

import anyio
import anyio.lowlevel
import h2.events
import h11
import hypercorn.protocol
import hypercorn.protocol.h2
import structlog
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BufferCompleteError, H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from priority.priority import DeadlockError, DuplicateStreamError, MissingStreamError

from scalesocket.admission import is_trusted
from scalesocket.config.model import Server
from scalesocket.config.units import KiB
from scalesocket.gateway import Gateway
from scalesocket.server.hypercorn.idle import stop_idling
from scalesocket.server.hypercorn.outgoing_stream import OutgoingStream, is_control_frame
from scalesocket.wire.address import is_loopback
from scalesocket.wire.http2 import ErrorCode, Http2Error, Inflow, encode_refusal

log = structlog.get_logger("http2")

CUT: Final = "scalesocket.cut"
"""Key in the scope's `state`: drops the connection, without waiting for what is unsent."""
CLOSE_TIMEOUT: Final = 1.0
"""Seconds in which a peer may read the GOAWAY frame that gives the reason before it is cut."""
LAST_READ: Final = 256 * KiB
"""Bytes that are still read, and dropped, from a peer that is cut."""
NO_WEBSOCKETS: Final = "websockets over HTTP/2 are off: open them over HTTP/1.1, or set http2_websockets = true in [server]"
NO_TUNNELS: Final = "CONNECT opens nothing here but websockets (RFC 8441)"
NO_HTTP2: Final = "HTTP/2 without TLS is for loopback and for trusted_proxies: use HTTP/1.1"


class Http1(H11Protocol):
    """HTTP/1.1, which becomes HTTP/2 by prior knowledge alone: `Upgrade: h2c` is ignored (RFC 9113 3.1)."""

    async def handle(self, event: Event) -> None:
        """Take what was received, or the end of it: then there is no next request to wait for."""
        await super().handle(event)
        if isinstance(event, Closed):
            await stop_idling(self.context.terminated)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Leave HTTP/1.1 when the first request is the preface of HTTP/2."""
        if event.method == b"PRI" and not self.keep_alive_requests:
            await super()._check_protocol(event)


class RoundRobin:
    """Serves the streams that have something to send in turn.

    In place of the tree of the `priority` package, in which one step may take as long as there are streams, and which peers
    arrange: PRIORITY is ignored.
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
        """Pass a stream over. Raises MissingStreamError."""
        if stream in self._active:
            del self._active[stream]
            self._blocked.add(stream)
        elif stream not in self._blocked:
            raise MissingStreamError(stream)

    def unblock(self, stream: int) -> None:
        """Give a stream its turns again. Raises MissingStreamError."""
        if stream in self._blocked:
            self._blocked.discard(stream)
            self._active[stream] = None
        elif stream not in self._active:
            raise MissingStreamError(stream)

    def __next__(self) -> int:
        """The stream that has waited longest. Raises DeadlockError when all are blocked."""
        if not self._active:
            raise DeadlockError
        stream = next(iter(self._active))
        self._active.move_to_end(stream)
        return stream


class KnownSettings(Settings):
    """A peer's settings. Others than those of RFC 9113 are forgotten at once: there may be 65,000 of them."""

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        """Take a setting that has a meaning."""
        if isinstance(key, SettingCodes) or key in SettingCodes._value2member_map_:
            super().__setitem__(key, value)


class Http2(H2Protocol):
    """HTTP/2 of which one connection costs the others little: it is read in small pieces, and a flood is cut."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._gateway = getattr(getattr(self.app, "app", None), "gateway", None)  # not behind another ASGI app
        self._server = self._gateway.site.server if isinstance(self._gateway, Gateway) else Server()
        self._offers_websockets = self._server.http2_websockets
        if not self._offers_websockets:
            del self.connection.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        self._peer = self.client[0] if self.client is not None else ""
        self._is_over = False
        self._left = anyio.Event()
        self._unread = LAST_READ
        self._inflow = Inflow(self.streams, time.monotonic())
        self.priority = RoundRobin()  # type: ignore[assignment]
        self.connection.remote_settings = KnownSettings(client=True)

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Begin; without TLS only with a trusted proxy, or on the same machine."""
        if self.ssl or self.client is None or is_loopback(self._peer) or is_trusted(self._peer, self._server.trusted_proxies):
            await super().initiate(headers, settings)
        else:
            log.info("HTTP/2 without TLS was refused", peer=self._peer)
            await self._end(encode_refusal(ErrorCode.HTTP_1_1_REQUIRED, NO_HTTP2))

    async def handle(self, event: Event) -> None:
        """Take what was received, piece by piece, or the end of the connection."""
        if not isinstance(event, RawData):
            self._left.set()
            await self._end_streams()
            await stop_idling(self.context.terminated)
            return
        try:
            for piece in self._inflow.split(event.data, time.monotonic()):
                if self._is_over:
                    break
                if piece:
                    await self._handle_events(self.connection.receive_data(piece))
                await anyio.lowlevel.checkpoint()
        except Http2Error as error:
            log.info("an HTTP/2 connection was cut", peer=self._peer, error=error.code.name, reason=error.message)
            self.connection.close_connection(error.code, error.message.encode())
            await self._end(self.connection.data_to_send())
        except ProtocolError:  # h2 has prepared a GOAWAY frame
            await self._end(self.connection.data_to_send())
        if self._is_over:
            self._unread -= len(event.data)
            if self._unread < 0:
                await self._close()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        """Take what happened. Data for a stream whose answer is complete resets it (RFC 9113 8.1)."""
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                with suppress(ProtocolError):  # it was reset already
                    self.connection.reset_stream(event.stream_id or 0, ErrorCode.NO_ERROR)
            else:
                await super()._handle_events([event])
        await self._flush()

    async def _flush(self) -> None:
        """Send what h2 has prepared."""
        if data := self.connection.data_to_send():
            self._inflow.sent(len(data))
            await self.send(RawData(data))

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what a stream has to say. Messages and files wait for the peer, control frames of websockets do not."""
        waiting = self.stream_buffers.get(event.stream_id)
        if waiting is None or not is_control_frame(event):
            await super().stream_send(event)
            return
        with suppress(MissingStreamError, BufferCompleteError):  # it has ended
            self.priority.unblock(event.stream_id)
            await self.has_data.set()
            await cast(OutgoingStream, waiting).push_control(event.data)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        """Begin a request, or refuse a tunnel: websockets only where they are offered, anything else never."""
        fields = dict(request.headers or ())
        is_websocket = fields.get(b":protocol") == b"websocket" and b":path" in fields
        if fields.get(b":method") != b"CONNECT" or (is_websocket and self._offers_websockets):
            await super()._create_stream(request)
            return
        if isinstance(self._gateway, Gateway):
            self._gateway.refusals["http2_connect"] += 1
        await self._refuse(request.stream_id or 0, NO_WEBSOCKETS if is_websocket else NO_TUNNELS)

    async def _refuse(self, stream: int, message: str) -> None:
        """Answer a request with 501, and read no more of it."""
        body = f"{message}\n".encode()
        headers = [(b":status", b"501"), (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        self.connection.send_headers(stream, headers)
        if self.connection.local_flow_control_window(stream) >= len(body):
            self.connection.send_data(stream, body, end_stream=True)
        with suppress(ProtocolError):  # it was ended by both sides already
            self.connection.reset_stream(stream, ErrorCode.NO_ERROR)
        await self._flush()

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """Ignore priorities in HEADERS (RFC 9113 5.3.2)."""

    async def _end(self, last: bytes) -> None:
        """End all streams, send the last bytes, and close the connection when the peer has had a moment to take them.

        Closing with unread input sends a reset, which can discard them.
        """
        self._is_over = True
        await self._end_streams()
        self.task_group.spawn(self._close_late)
        if last:
            await self.send(RawData(last))

    async def _end_streams(self) -> None:
        """End all streams; nothing waits any more for what they have to send."""
        await super().handle(Closed())
        for waiting in tuple(self.stream_buffers.values()):
            await waiting.close()

    async def _close_late(self) -> None:
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await self._left.wait()
        await self._close()

    async def _close(self) -> None:
        """Close the connection, without waiting for what is unsent if that can be."""
        cut = self.connection_state.get(CUT)
        if cut is not None:
            cut()
        else:
            await self.send(Closed())


def install_protocols() -> None:
    """Make Hypercorn use these from now on. Calls may repeat."""
    vars(hypercorn.protocol).update(H11Protocol=Http1, H2Protocol=Http2)
    vars(hypercorn.protocol.h2).update(StreamBuffer=OutgoingStream)
