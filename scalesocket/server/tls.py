"""Listeners with TLS: the TLS handshake precedes the request head."""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final

from scalesocket.config.certificates import CertificateError, load_pair
from scalesocket.config.model import Tls
from scalesocket.config.validity import Validity
from scalesocket.server.accept import Acceptor
from scalesocket.server.addresses import ListenError
from scalesocket.server.connections import Connections
from scalesocket.server.new_connection import NewConnection

PROTOCOLS: Final = ["h2", "http/1.1"]


class TlsAcceptor(Acceptor):
    """Accepts connections and performs their TLS handshakes, each within `handshake_timeout`.

    The event loop's own server reports a connection only after its handshake. Until then the connection would not count, so
    clients that never send a handshake could take every file descriptor.
    """

    def __init__(self, sock: socket.socket, connections: Connections, tls: ssl.SSLContext) -> None:
        """Accept at `sock`, with the certificate in `tls`."""
        self._tls = tls
        super().__init__(sock, connections)

    def start_connection(self, fd: int, peer: object) -> None:
        """Start the handshake."""
        connections = self._connections
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)

        async def shake_hands() -> None:
            with suppress(OSError):  # the peer has left, was too late, or does not use TLS
                await connections.loop.connect_accepted_socket(
                    lambda: NewTlsConnection(connections, task),
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=connections.gateway.site.server.handshake_timeout,
                )

        task = connections.loop.create_task(shake_hands())
        connections.tls_handshakes.add(task)
        task.add_done_callback(connections.tls_handshakes.discard)


class NewTlsConnection(NewConnection):
    """A new connection whose TLS handshake is done."""

    __slots__ = ("_handshake",)

    def __init__(self, connections: Connections, handshake: asyncio.Task[None]) -> None:
        """Take the place of `handshake` among `connections`."""
        super().__init__(connections)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection in place of its handshake, and start the clock."""
        self._connections.tls_handshakes.discard(self._handshake)
        super().connection_made(transport)


class ServerContext(ssl.SSLContext):
    """The TLS settings of connections, with the validity of their certificate."""

    validity: Validity | None = None


def load_tls(tls: Tls) -> ServerContext:
    """Load a certificate and its key. Raises ListenError."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOLS)
    # A handshake costs the server much more CPU than its client. Without renegotiation (RFC 5246 7.4.1.1) each one needs a
    # connection of its own, which the limits count. OpenSSL 1.1 allows it by default.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.validity = load_pair(context, tls)
    except CertificateError as error:  # the message does not name the path of the key, which is a secret
        file = f"{tls.certificate} " if error.blamed == "certificate" else ""
        raise ListenError(f"server.tls.{error.blamed}: {file}{error.reason}") from error
    return context
