"""TLS of our own: agrees with connections before they come to the door."""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final

from scalesocket.config.certificates import CertificateError, load_pair
from scalesocket.config.model import Tls
from scalesocket.server.accept import Acceptor
from scalesocket.server.addresses import ListenError
from scalesocket.server.connections import Connections
from scalesocket.server.new_connection import NewConnection

PROTOCOLS: Final = ["h2", "http/1.1"]


class TlsAcceptor(Acceptor):
    """Agrees on TLS with connections, within `handshake_timeout`.

    A server of the event loop would tell of a connection when that is done: until then it would have no place, and those
    that only connect could take every descriptor.
    """

    def __init__(self, sock: socket.socket, connections: Connections, tls: ssl.SSLContext) -> None:
        """Agree on `tls` with those accepted at `sock`."""
        self._tls = tls
        super().__init__(sock, connections)

    def welcome(self, fd: int, peer: object) -> None:
        """Begin the handshake."""
        connections = self._connections
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)

        async def shake_hands() -> None:
            with suppress(OSError):  # of the peer: it went, was late, or speaks no TLS
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
    """A door behind TLS."""

    __slots__ = ("_handshake",)

    def __init__(self, connections: Connections, handshake: asyncio.Task[None]) -> None:
        """Wait at `connections` when `handshake` is done."""
        super().__init__(connections)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the place of the handshake to the connection, and start the clock."""
        self._connections.tls_handshakes.discard(self._handshake)
        super().connection_made(transport)


def load_tls(tls: Tls) -> ssl.SSLContext:
    """Load a certificate and its key. Raises ListenError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOLS)
    context.options |= ssl.OP_NO_COMPRESSION
    try:
        load_pair(context, tls)
    except CertificateError as error:  # the key's path is a secret
        file = f"{tls.certificate} " if error.blamed == "certificate" else ""
        raise ListenError(f"server.tls.{error.blamed}: {file}{error.reason}") from error
    return context
