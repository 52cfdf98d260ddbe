"""A new connection: one request head is read from it, within a limit and a deadline; then it takes its lane.

A websocket upgrade of HTTP/1.1 is answered in the same synchronous step (`upgrade.py`), in which an `ExpressClient` replaces the
protocol, or handed over to the process that owns the room (`hand_over.py`). Everything else goes to Hypercorn, with the bytes
already read.
"""

import asyncio
import re
from functools import partial
from typing import Final, cast

from scalesocket.admission.control import Admission, PendingAdmission
from scalesocket.admission.proxies import is_trusted_peer
from scalesocket.admission.refusals import NO_DESCRIPTORS, Refusal
from scalesocket.config.units import KiB
from scalesocket.server.connections import Connections
from scalesocket.server.hand_over import place_upgrade
from scalesocket.server.upgrade import complete_upgrade, refuse_upgrade, respond
from scalesocket.server.waiting_upgrade import WaitingUpgrade
from scalesocket.wire.forwarded import ProxyHeaderError, parse_proxy_header, starts_proxy_header
from scalesocket.wire.handshake import (
    BARE_LF,
    HandshakeError,
    check_upgrade,
    has_bare_line_feed,
    has_token,
    parse_request,
)

MAX_HEAD: Final = 32 * KiB
"""Bytes of a request head, its end included."""

_END: Final = b"\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"(\r\n)?[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP/[0-9]\.[0-9]\r?\n")  # RFC 9112 2.2 and 3
_CLIENT_HELLO: Final = b"\x16\x03"  # the first bytes of a TLS connection (RFC 8446 5.1)

UPGRADE_REQUIRED: Final = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
"""Header fields of a 426 (RFC 9110 15.5.22, RFC 6455 4.4)."""
HEAD_TOO_BIG: Final = Refusal(
    status=431, reason="head_too_big", message=f"the request head is longer than {MAX_HEAD} bytes: send fewer or shorter headers"
)
HEAD_TIMEOUT: Final = Refusal(
    status=408, reason="head_timeout", message="the request head did not arrive within handshake_timeout: send it at once"
)
NO_TLS: Final = Refusal(status=400, reason="not_http", message="this port serves HTTP without TLS: use http:// or ws://")
NO_HTTP: Final = Refusal(status=400, reason="not_http", message="this is not an HTTP request: use an HTTP or websocket client")
NO_CRLF: Final = Refusal(status=400, reason="bad_handshake", message=BARE_LF)


class NewConnection(asyncio.Protocol):
    """One connection until its first request head is complete. `handshake_timeout` bounds the time, `MAX_HEAD` the size."""

    __slots__ = ("_connections", "_head", "_is_first", "_is_proxied", "_is_reserved", "_local", "_peer", "_transport")

    def __init__(self, connections: Connections, local: tuple[str, int] | None = None, *, is_reserved: bool = False) -> None:
        """Belong to `connections`. `local`: the address connected to, if it is the same for all connections of a listener.

        `is_reserved`: descriptors run out, so the connection gets one response, and no websocket.
        """
        self._is_reserved = is_reserved
        self._connections = connections
        self._local = local
        self._head = b""
        self._peer: tuple[str, int] | None = None
        self._is_first = True  # no byte of the request itself was read yet: a PROXY header may precede it
        self._is_proxied = False

    # --- Callbacks of the transport (asyncio.Protocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's has its methods, not its base class
        connections = self._connections
        connections.transports.add(transport)
        self._peer = address_of(transport.get_extra_info("peername"))
        connections.head_deadlines.start(self)

    def data_received(self, chunk: bytes) -> None:
        """Collect the head."""
        head = self._head + chunk if self._head else chunk
        if self._is_first and self._connections.gateway.site.server.trusted_proxies:
            rest = self._skip_proxy_header(head)
            if rest is None:
                return
            head = rest
        end = head.find(_END, max(0, len(head) - len(chunk) - 3))
        if 0 <= end <= MAX_HEAD - len(_END):
            self._connections.head_deadlines.stop(self)
            self._head = b""
            self._choose_lane(head, end)
        elif end >= 0 or len(head) > MAX_HEAD:
            self._refuse(HEAD_TOO_BIG)
        elif head.startswith(_CLIENT_HELLO):  # the peer waits for our part of the TLS handshake: do not wait for more
            self._refuse(NO_TLS)
        elif has_bare_line_feed(head, max(0, len(head) - len(chunk) - 1)):  # an end with CRLF may never come
            self._refuse(NO_CRLF if _REQUEST_LINE.match(head) else NO_HTTP)
        else:
            self._head = head

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self._connections.head_deadlines.stop(self)
        self._connections.forget(self._transport)

    def time_out(self) -> None:
        """End the connection: its head did not arrive in time. A peer that sent nothing gets no response."""
        if self._head:
            self._refuse(HEAD_TIMEOUT)
        else:
            self._transport.close()

    def cut(self) -> None:
        """Abort the connection: its descriptor is needed, and it has sent no request yet."""
        self._connections.gateway.refusals[NO_DESCRIPTORS.reason] += 1
        self._transport.abort()

    # --- The head

    def set_proxied(self, reported: tuple[str, int] | None) -> None:
        """Note that a PROXY header was read, and the client's address that it has."""
        self._is_proxied = True
        self._is_first = False
        self._peer = reported or self._peer

    def _skip_proxy_header(self, head: bytes) -> bytes | None:
        """Return what follows a PROXY header; None while the header is incomplete, or if it was refused."""
        trusted = self._connections.gateway.site.server.trusted_proxies
        if starts_proxy_header(head) and is_trusted_peer(self._peer, trusted):
            try:
                parsed = parse_proxy_header(head)
            except ProxyHeaderError as error:
                self._connections.gateway.admission.hints.proxy_header_refused(self._peer, str(error))
                self._refuse(Refusal(status=400, reason="proxy_header", message=str(error)))
                return None
            if parsed is None:
                self._head = head
                return None
            size, reported = parsed
            self.set_proxied(reported)
            head = head[size:]
        self._is_first = False
        return head

    def _choose_lane(self, head: bytes, end: int) -> None:
        """Answer a websocket upgrade; hand any other request to Hypercorn."""
        if b"websocket" not in head[:end].lower() or not self._connections.serves_websockets:
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
            self._connections.gateway.refusals["bad_handshake"] += 1
            self._respond(error.status, error.message, extra=UPGRADE_REQUIRED if error.status == 426 else "")
            return
        if self._is_proxied:
            request = request._replace(is_proxied=True)
        admit = self._connections.gateway.admission.admit
        admission = self._connections.gateway.admission.count(NO_DESCRIPTORS) if self._is_reserved else admit(request)
        rest = head[end + len(_END) :]
        if isinstance(admission, PendingAdmission):
            WaitingUpgrade(transport, self._connections, admission, rest, partial(self._answer, key))
        else:
            self._answer(key, admission, rest)

    def _answer(self, key: str, admission: Admission | Refusal, rest: bytes) -> None:
        """Answer an upgrade by the decision on it. `rest`: the bytes that were read after the head."""
        if isinstance(admission, Refusal):
            refuse_upgrade(self._transport, self._connections, admission)
        elif self._connections.placement is None or admission.close is not None:
            complete_upgrade(self._transport, self._connections, admission, key, rest)
        else:
            place_upgrade(self._transport, self._connections, admission, key, rest)

    def _hand_over(self, head: bytes, end: int) -> None:
        """Move the connection to the general lane, if `head` is an HTTP request."""
        if not _REQUEST_LINE.match(head):
            self._refuse(NO_HTTP)
            return
        if has_bare_line_feed(head, 0, end):
            self._refuse(NO_CRLF)
            return
        self._connections.forget(self._transport)
        self._connections.hypercorn.take_over(
            self._transport, head, peer=self._peer, is_proxied=self._is_proxied, is_reserved=self._is_reserved
        )

    # --- Refusing

    def _refuse(self, refusal: Refusal) -> None:
        """Count and answer a connection that brought no usable request head."""
        self._connections.gateway.refusals[refusal.reason] += 1
        self._respond(refusal.status, refusal.message)

    def _respond(self, status: int, message: str, *, extra: str = "") -> None:
        """Write a complete response and end the connection."""
        self._connections.head_deadlines.stop(self)
        respond(self._transport, self._connections, status, message, extra=extra)


def address_of(name: object) -> tuple[str, int] | None:
    """Return address and port from the name of a socket; None for a unix socket."""
    return name[:2] if isinstance(name, tuple) else None
