"""Listeners with TLS: the TLS handshake precedes the request head."""

import socket
import ssl
from typing import Final

import anyio.to_thread

from scalesocket.config.certificates import CertificateError, Pair, load_pair, read_pair
from scalesocket.config.model import Server, Tls
from scalesocket.config.validity import Validity
from scalesocket.server.accept import Acceptor
from scalesocket.server.addresses import ListenError
from scalesocket.server.connections import Connections
from scalesocket.server.tls_handshake import TlsHandshake

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
        """Wait for the handshake, or for the PROXY header before it."""
        TlsHandshake(self._connections, self._tls, fd, peer)


class ServerContext(ssl.SSLContext):
    """The TLS settings of connections, with the validity of their certificate."""

    validity: Validity | None = None
    pair: Pair | None = None
    """What was loaded, for other processes to load the same."""


async def load_tls_of(server: Server, pair: Pair | None = None) -> ServerContext | None:
    """Load the certificate of a server, if it has one, in a thread: the files may be on a slow disk. Raises ListenError.

    `pair`: as in `load_tls`.
    """
    if server.tls is None:
        return None
    return await anyio.to_thread.run_sync(load_tls, server.tls, pair, abandon_on_cancel=True)


def load_tls(tls: Tls, pair: Pair | None = None) -> ServerContext:
    """Load a certificate and its key, from their files or as another process has read them (`pair`). Raises ListenError."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOLS)
    # A handshake costs the server much more CPU than its client. Without renegotiation (RFC 5246 7.4.1.1) each one needs a
    # connection of its own, which the limits count. OpenSSL 1.1 allows it by default.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.pair = pair or read_pair(tls)
        context.validity = load_pair(context, tls, pair)
    except CertificateError as error:  # the message does not name the path of the key, which is a secret
        file = f"{tls.certificate} " if error.blamed == "certificate" else ""
        raise ListenError(f"server.tls.{error.blamed}: {file}{error.reason}") from error
    return context
