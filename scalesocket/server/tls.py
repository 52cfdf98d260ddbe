"""TLS of our own: accepts connections and agrees with them, before they come to the door."""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final

import structlog

from scalesocket.config.certificates import CertificateError, load_pair
from scalesocket.config.model import Tls
from scalesocket.server.bind import ListenError
from scalesocket.server.door import Door, Entrance

log = structlog.get_logger("listen")

MAX_ACCEPTS: Final = 16
"""Connections accepted in one turn of the loop; out of descriptors asyncio tries, and reports, as many times a second."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds to wait when there is no descriptor for a connection."""
PROTOCOLS: Final = ["h2", "http/1.1"]


class TlsServer:
    """Accepts connections and agrees on TLS with them, within `handshake_timeout`.

    A server of the event loop would tell of a connection when that is done: until then it would have no place, and those
    that only connect could take every descriptor.
    """

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext, entrance: Entrance) -> None:
        """Accept at `sock`, which is the server's from now on."""
        self._sock = sock
        self._tls = tls
        self._entrance = entrance
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Accept no more. Connections that were accepted stay."""
        self._entrance.loop.remove_reader(self._sock)
        if self._pause is not None:
            self._pause.cancel()
        self._sock.close()

    def _resume(self) -> None:
        # Not `sock_accept`: to cancel it may lose a connection that was accepted, and nobody was told of.
        self._entrance.loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        entrance = self._entrance
        for _ in range(MAX_ACCEPTS):
            try:
                connection, _ = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # by the peer, before it was accepted
                continue
            except OSError as error:  # out of descriptors: that passes
                log.warning("can't accept connections", error=str(error))
                entrance.loop.remove_reader(self._sock)
                self._pause = entrance.loop.call_later(ACCEPT_PAUSE, self._resume)
                return
            if entrance.has_place():
                connection.setblocking(False)
                self._start_handshake(connection)
            else:
                entrance.gateway.refusals["too_many_connections"] += 1
                connection.close()

    def _start_handshake(self, connection: socket.socket) -> None:
        entrance = self._entrance

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
