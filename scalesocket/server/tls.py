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
from scalesocket.server.new_connection import Door, Entrance

PROTOCOLS: Final = ["h2", "http/1.1"]


class TlsAcceptor(Acceptor):
    """Agrees on TLS with connections, within `handshake_timeout`.

    A server of the event loop would tell of a connection when that is done: until then it would have no place, and those
    that only connect could take every descriptor.
    """

    def __init__(self, sock: socket.socket, entrance: Entrance, tls: ssl.SSLContext) -> None:
        """Agree on `tls` with those accepted at `sock`."""
        self._tls = tls
        super().__init__(sock, entrance)

    def welcome(self, fd: int, peer: object) -> None:
        """Begin the handshake."""
        entrance = self._entrance
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)

        async def shake_hands() -> None:
            with suppress(OSError):  # of the peer: it went, was late, or speaks no TLS
                await entrance.loop.connect_accepted_socket(
                    lambda: TlsDoor(entrance, task),
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=entrance.gateway.site.server.handshake_timeout,
                )

        task = entrance.loop.create_task(shake_hands())
        entrance.handshakes.add(task)
        task.add_done_callback(entrance.handshakes.discard)


class TlsDoor(Door):
    """A door behind TLS."""

    __slots__ = ("_handshake",)

    def __init__(self, entrance: Entrance, handshake: asyncio.Task[None]) -> None:
        """Wait at `entrance` when `handshake` is done."""
        super().__init__(entrance)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the place of the handshake to the connection, and start the clock."""
        self._entrance.handshakes.discard(self._handshake)
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
