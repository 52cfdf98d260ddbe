"""The door: reads one request head of each connection and sends it down its lane.

A websocket upgrade of HTTP/1.1 is answered here and becomes a `Socket`, in the same synchronous step. Everything else
goes to Hypercorn, with the bytes that were read.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Final, cast

import structlog

from scalesocket.admission import Refusal, is_trusted
from scalesocket.cleanup import logged_faults
from scalesocket.config.units import KiB
from scalesocket.edge.limits import CLOSE_TIMEOUT
from scalesocket.errors import Close
from scalesocket.gateway import Gateway
from scalesocket.io.poller import Poller
from scalesocket.server.express import Socket
from scalesocket.server.hypercorn.server import Hypercorn
from scalesocket.wire.deflate import answer_offers
from scalesocket.wire.forwarded import ProxyHeaderError, parse_proxy_header, starts_proxy_header
from scalesocket.wire.frames import Opcode, encode_frame
from scalesocket.wire.handshake import (
    BARE_LF,
    HandshakeError,
    accept_key,
    check_upgrade,
    has_bare_line_feed,
    has_token,
    parse_request,
)

log = structlog.get_logger("door")

MAX_HEAD: Final = 32 * KiB
"""Bytes of a request head, its end included."""
HARD_CAP: Final = 1.5
"""Connections accepted, as a multiple of `max_connections`: beyond the websockets, so that /health still answers."""

_END: Final = b"\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"(\r\n)?[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP/[0-9]\.[0-9]\r?\n")  # RFC 9112 2.2 and 3
_CLIENT_HELLO: Final = b"\x16\x03"  # how TLS begins (RFC 8446 5.1)

WANTED: Final = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
"""What a 426 asks for (RFC 9110 15.5.22, RFC 6455 4.4)."""
NO_TLS: Final = Refusal(status=400, reason="not_http", message="this port speaks HTTP without TLS: use http:// or ws://")
NO_HTTP: Final = Refusal(status=400, reason="not_http", message="this is not an HTTP request")
NO_CRLF: Final = Refusal(status=400, reason="bad_handshake", message=BARE_LF)


class Entrance:
    """What all doors share: the gateway, the way to the general lane, and how many connections there are."""

    def __init__(self, gateway: Gateway, hypercorn: Hypercorn, poller: Poller) -> None:
        """Let clients in to `gateway`, and everything else to `hypercorn`. `poller` watches the connections."""
        self.gateway = gateway
        self.hypercorn = hypercorn
        self.poller = poller
        self.loop = asyncio.get_running_loop()
        self.connections: set[asyncio.Transport] = set()
        """Connections at the door, and websockets on the express lane."""
        self.handshakes: set[asyncio.Task[None]] = set()
        """Connections that have not agreed on TLS yet."""
        self.websockets = 0
        """Websockets of the express lane whose connection is open, be it only for the closing handshake."""
        self._is_full = False
        self._is_quiet = asyncio.Event()
        # One timer for all doors: a timer of its own would cost a handshake 2 us of its 50.
        self._waiting: dict[Door, float] = {}  # since when, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def has_place(self) -> bool:
        """Whether one more connection may stay."""
        limit = self.gateway.site.server.max_connections
        is_full = (
            limit is not None and len(self.connections) + len(self.handshakes) + self.hypercorn.connections >= limit * HARD_CAP
        )
        if is_full and not self._is_full:
            log.warning("too many connections, new ones are cut", limit=limit)
        self._is_full = is_full
        return not is_full

    def wait_for_head(self, door: "Door") -> None:
        """Give a connection `handshake_timeout` to send its head."""
        self._waiting[door] = self.loop.time()
        if self._timer is None:
            self._look_again()

    def has_head(self, door: "Door") -> None:
        """Wait no more."""
        self._waiting.pop(door, None)

    def _look_again(self) -> None:
        timeout = self.gateway.site.server.handshake_timeout
        self._timer = self.loop.call_at(next(iter(self._waiting.values())) + timeout, self._find_late)

    def _find_late(self) -> None:
        self._timer = None
        latest = self.loop.time() - self.gateway.site.server.handshake_timeout
        for door, since in tuple(self._waiting.items()):
            if since > latest:
                break
            del self._waiting[door]
            door.is_late()
        if self._waiting:
            self._look_again()

    def close(self) -> None:
        """Cut every connection that is left, and look no more for late ones."""
        self.cut_all()
        if self._timer is not None:
            self._timer.cancel()

    def cut_all(self) -> None:
        """Cut every connection that is left."""
        for transport in tuple(self.connections):
            with logged_faults("cutting a connection"):
                transport.abort()
        for handshake in self.handshakes:
            handshake.cancel()

    def forget(self, transport: asyncio.Transport) -> None:
        """Note that a connection is gone, or in other hands."""
        self.connections.discard(transport)

    def forget_websocket(self, transport: asyncio.Transport) -> None:
        """Note that the connection of a websocket is gone."""
        self.connections.discard(transport)
        self.websockets -= 1
        if not self.websockets:
            self._is_quiet.set()

    async def wait_quiet(self) -> None:
        """Wait until the last websocket is gone. Connections that have said nothing yet are not waited for."""
        while self.websockets:
            self._is_quiet.clear()
            await self._is_quiet.wait()


class Door(asyncio.Protocol):
    """One connection until its first request head is complete; `handshake_timeout` bounds the wait, `MAX_HEAD` the size."""

    __slots__ = ("_entrance", "_head", "_is_first", "_is_proxied", "_local", "_peer", "_transport")

    def __init__(self, entrance: Entrance, local: tuple[str, int] | None = None) -> None:
        """Wait at `entrance`. `local`: the address connected to, where it is the same for all connections of a listener."""
        self._entrance = entrance
        self._local = local
        self._head = b""
        self._peer: tuple[str, int] | None = None
        self._is_first = True  # no byte of the request itself was read yet: a PROXY header may stand before it
        self._is_proxied = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        entrance = self._entrance
        entrance.connections.add(transport)
        self._peer = address_of(transport.get_extra_info("peername"))
        entrance.wait_for_head(self)

    def data_received(self, chunk: bytes) -> None:
        """Collect the head."""
        head = self._head + chunk if self._head else chunk
        if self._is_first and self._entrance.gateway.site.server.trusted_proxies:
            rest = self._without_proxy_header(head)
            if rest is None:
                return
            head = rest
        end = head.find(_END, max(0, len(head) - len(chunk) - 3))
        if 0 <= end <= MAX_HEAD - len(_END):
            self._entrance.has_head(self)
            self._head = b""
            self._choose_lane(head, end)
        elif end >= 0 or len(head) > MAX_HEAD:
            self._refuse(Refusal(status=431, reason="head_too_big", message=f"the request head is longer than {MAX_HEAD} bytes"))
        elif head.startswith(_CLIENT_HELLO):  # it waits for our part of the handshake, and would until `handshake_timeout`
            self._refuse(NO_TLS)
        elif has_bare_line_feed(head, max(0, len(head) - len(chunk) - 1)):  # its end might never come
            self._refuse(NO_CRLF if _REQUEST_LINE.match(head) else NO_HTTP)
        else:
            self._head = head

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection: it came to nothing."""
        self._entrance.has_head(self)
        self._entrance.forget(self._transport)

    def is_late(self) -> None:
        """End the connection: its head did not come in time."""
        if self._head:
            self._refuse(Refusal(status=408, reason="head_timeout", message="the request head took too long"))
        else:
            self._transport.close()

    def _without_proxy_header(self, head: bytes) -> bytes | None:
        """What follows a PROXY header; None while it is incomplete, or when the connection was ended for it."""
        trusted = self._entrance.gateway.site.server.trusted_proxies
        if (self._peer is None or is_trusted(self._peer[0], trusted)) and starts_proxy_header(head):
            try:
                parsed = parse_proxy_header(head)
            except ProxyHeaderError as error:
                self._refuse(Refusal(status=400, reason="proxy_header", message=str(error)))
                return None
            if parsed is None:
                self._head = head
                return None
            size, peer = parsed
            self._is_proxied = True
            self._peer = peer or self._peer
            head = head[size:]
        self._is_first = False
        return head

    def _choose_lane(self, head: bytes, end: int) -> None:
        """Answer an upgrade; hand everything else to Hypercorn."""
        if b"websocket" not in head[:end].lower():
            self._hand_over(head, end)
            return
        transport = self._transport
        try:
            request = parse_request(
                head[:end],
                peer=self._peer,
                local=self._local or address_of(transport.get_extra_info("sockname")),
                is_secure=transport.get_extra_info("ssl_object") is not None,
            )
            if not has_token(request.headers.get("upgrade", ""), "websocket"):
                self._hand_over(head, end)
                return
            key = check_upgrade(request)
        except HandshakeError as error:
            self._entrance.gateway.refusals["bad_handshake"] += 1
            self._answer(error.status, error.message, extra=WANTED if error.status == 426 else "")
            return
        if self._is_proxied:
            request = request._replace(is_proxied=True)
        admission = self._entrance.gateway.admit(request)
        if isinstance(admission, Refusal):
            retry = f"Retry-After: {admission.retry_after}\r\n" if admission.retry_after is not None else ""
            self._answer(admission.status, admission.message, extra=retry)
            return
        deflation = answer_offers(request.headers.get("sec-websocket-extensions", "")) if admission.app.compression else ""
        agreed = f"Sec-WebSocket-Extensions: {deflation}\r\n" if deflation else ""
        if admission.subprotocol is not None:
            agreed += f"Sec-WebSocket-Protocol: {admission.subprotocol}\r\n"
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n" + agreed.encode() + b"\r\n"
        )
        entrance = self._entrance
        socket = Socket(transport, admission, is_deflated=bool(deflation), on_lost=entrance.forget_websocket, loop=entrance.loop)
        transport.set_protocol(socket)  # before the history is sent, which may fill the buffer
        refusal = admission.join(socket)
        if refusal is not None:
            TurnedAway(transport, refusal, entrance)
            return
        entrance.websockets += 1
        rest = head[end + len(_END) :]
        if rest:
            socket.start_with(rest)

    def _hand_over(self, head: bytes, end: int) -> None:
        if not _REQUEST_LINE.match(head):
            self._refuse(NO_HTTP)
            return
        if has_bare_line_feed(head, 0, end):
            self._refuse(NO_CRLF)
            return
        self._entrance.forget(self._transport)
        self._entrance.hypercorn.take_over(self._transport, head, peer=self._peer, is_proxied=self._is_proxied)

    def _refuse(self, refusal: Refusal) -> None:
        """End a connection whose head is not worth an application's answer."""
        self._entrance.gateway.refusals[refusal.reason] += 1
        self._answer(refusal.status, refusal.message)

    def _answer(self, status: int, message: str, *, extra: str = "") -> None:
        """Write a whole response and end the connection."""
        self._entrance.has_head(self)
        body = f"{message}\n".encode()
        self._transport.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n".encode()
            + body
        )
        Ending(self._transport, self._entrance)


class Ending(asyncio.Protocol):
    """A connection that was answered for good: ours is ended, what still comes is dropped, and soon it is cut.

    To close it while something is unread would reset it, and could lose the answer (RFC 9112 9.6).
    """

    __slots__ = ("_entrance", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, entrance: Entrance) -> None:
        """Take over `transport`."""
        self._transport = transport
        self._entrance = entrance
        self._timer = entrance.loop.call_later(CLOSE_TIMEOUT, transport.abort)
        transport.set_protocol(self)
        self.end()

    def end(self) -> None:
        """End our side, after what was written."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._timer.cancel()
        self._entrance.forget(self._transport)


class TurnedAway(Ending):
    """A websocket there was no place for: accepted and closed, because browsers can't read a refused handshake."""

    __slots__ = ()

    def __init__(self, transport: asyncio.Transport, close: Close, entrance: Entrance) -> None:
        """Say why, and wait for the peer's close frame like any other."""
        transport.write(encode_frame(close.payload(), Opcode.CLOSE))
        super().__init__(transport, entrance)


def address_of(name: object) -> tuple[str, int] | None:
    """Address and port from the name of a socket; None for a unix socket."""
    return name[:2] if isinstance(name, tuple) else None
