"""A connection to a listener with TLS, until its handshake is done."""

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from typing import Final

from scalesocket.admission.proxies import is_trusted_peer
from scalesocket.admission.refusals import NO_DESCRIPTORS, Refusal
from scalesocket.io.transport import SocketTransport
from scalesocket.server.connections import Connections
from scalesocket.server.new_connection import NewConnection, address_of
from scalesocket.wire.forwarded import MAX_V2, ProxyHeaderError, is_proxy_header, parse_proxy_header, starts_proxy_header

_HANDSHAKE: Final = 0x16  # the first byte of a TLS connection (RFC 8446 5.1)
_METHOD: Final = re.compile(rb"[A-Za-z]")  # the first byte of a request of HTTP/1.1, and of the preface of HTTP/2

NOT_TLS: Final = Refusal(status=400, reason="not_tls", message="this port speaks TLS: use https:// or wss://")


class TlsHandshake:
    """Accepts the TLS handshake of one connection, within `handshake_timeout` of its start.

    A trusted proxy may send a PROXY header before the handshake, in clear text. Bytes are read only once they are known to belong
    to that header, and are peeked at until then: the event loop's TLS reads the handshake from the socket itself.
    """

    __slots__ = (
        *("_connections", "_header", "_is_taken", "_peer", "_socket", "_task", "_tls"),
        *("is_proxied", "is_reserved", "reported"),
    )

    def __init__(self, connections: Connections, tls: ssl.SSLContext, fd: int, peer: object) -> None:
        """Take ownership of the descriptor of a connection, and count it. `peer`: the address of its other end."""
        self.is_proxied = False
        """Whether a PROXY header was read."""
        self.reported: tuple[str, int] | None = None
        """The client's address that it has."""
        self.is_reserved = fd >= connections.first_reserved
        """Whether descriptors run out, so that the connection gets one response, and no websocket."""
        self._connections = connections
        self._tls = tls
        self._peer = peer
        self._header = b""  # the part of a PROXY header that was read
        self._task: asyncio.Task[None] | None = None
        self._is_taken = False  # whether a transport closes the socket
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        connections.tls_handshakes.add(self)
        connections.head_deadlines.start(self)
        self._look()

    def time_out(self) -> None:
        """End the connection: its handshake was not done in time."""
        self.cancel()

    def cut(self) -> None:
        """Abort the connection: its descriptor is needed."""
        self._connections.gateway.refusals[NO_DESCRIPTORS.reason] += 1
        self.cancel()

    def cancel(self) -> None:
        """End the connection."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._end()

    def _look(self) -> None:
        """Decide by the bytes that have arrived how to go on."""
        try:
            head = self._socket.recv(MAX_V2, socket.MSG_PEEK)
        except BlockingIOError:
            self._wait()
            return
        except OSError:  # reset by the peer
            head = b""
        if not head:
            self._end()
        elif not self._header and head[0] == _HANDSHAKE:
            self._shake_hands()
        elif not self.is_proxied and self._expects_header(self._header + head):
            self._skip_proxy_header(head)
        elif _METHOD.match(self._header or head):
            self._answer_in_clear_text()
        else:
            self._shake_hands()  # which fails, and sends an alert

    def _expects_header(self, head: bytes) -> bool:
        """Whether `head` is a PROXY header or, from a trusted proxy, may become one."""
        return starts_proxy_header(head) if self._is_trusted else is_proxy_header(head)

    @property
    def _is_trusted(self) -> bool:
        return is_trusted_peer(address_of(self._peer), self._connections.gateway.site.server.trusted_proxies)

    def _skip_proxy_header(self, head: bytes) -> None:
        """Read a PROXY header, as far as it has arrived."""
        if not self._is_trusted:
            self._refuse("its sender is not in trusted_proxies")
            return
        try:
            parsed = parse_proxy_header(self._header + head)
        except ProxyHeaderError as error:
            self._refuse(str(error))
            return
        if parsed is None:
            self._header += self._socket.recv(len(head))
            self._wait()
            return
        size, self.reported = parsed
        self._socket.recv(size - len(self._header))
        self._header = b""
        self.is_proxied = True
        self._look()

    def _wait(self) -> None:
        self._connections.poller.add_reader(self._socket.fileno(), self._look)

    def _shake_hands(self) -> None:
        connections = self._connections
        connections.poller.remove_reader(self._socket.fileno())

        async def shake_hands() -> None:
            self._is_taken = True
            with suppress(OSError):  # the peer has left, was too late, or does not use TLS
                await connections.loop.connect_accepted_socket(
                    lambda: NewTlsConnection(connections, self),
                    self._socket,
                    ssl=self._tls,
                    ssl_handshake_timeout=connections.gateway.site.server.handshake_timeout,  # ours ends before
                )

        self._task = connections.loop.create_task(shake_hands())
        self._task.add_done_callback(self._done)

    def _done(self, _: asyncio.Task[None]) -> None:
        self._connections.head_deadlines.stop(self)
        self._connections.tls_handshakes.discard(self)
        if not self._is_taken:  # cancelled in the event-loop iteration in which its first byte arrived
            self._socket.close()

    def _answer_in_clear_text(self) -> None:
        """Answer a request without TLS. Its bytes are still unread."""
        connections = self._connections
        self._stop_looking()
        connections.tls_handshakes.discard(self)
        SocketTransport(self._socket.detach(), self._peer, ClearTextConnection(connections), poller=connections.poller)

    def _refuse(self, error: str) -> None:
        """Count a wrong PROXY header, and end the connection: its sender is a proxy, which would show an answer to no one."""
        admission = self._connections.gateway.admission
        admission.refusals["proxy_header"] += 1
        admission.hints.proxy_header_refused(self._peer, error)
        self._end()

    def _end(self) -> None:
        self._stop_looking()
        self._connections.tls_handshakes.discard(self)
        self._socket.close()

    def _stop_looking(self) -> None:
        self._connections.head_deadlines.stop(self)
        self._connections.poller.remove_reader(self._socket.fileno())


class NewTlsConnection(NewConnection):
    """A new connection whose TLS handshake is done."""

    __slots__ = ("_handshake",)

    def __init__(self, connections: Connections, handshake: TlsHandshake) -> None:
        """Take the place of `handshake` among `connections`."""
        super().__init__(connections, is_reserved=handshake.is_reserved)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection in place of its handshake, and start the clock."""
        self._connections.head_deadlines.stop(self._handshake)
        self._connections.tls_handshakes.discard(self._handshake)
        super().connection_made(transport)
        if self._handshake.is_proxied:
            self.set_proxied(self._handshake.reported)


class ClearTextConnection(NewConnection):
    """A connection without TLS to a listener with TLS."""

    __slots__ = ()

    def data_received(self, chunk: bytes) -> None:
        """Answer that TLS is needed, whatever the request is."""
        self._refuse(NOT_TLS)
