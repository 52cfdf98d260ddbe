"""Connections that arrive at a listening socket while it is being closed, after all workers have stopped accepting at it.

The process that closes the socket accepts them, and a worker serves them. To close the socket would reset them.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

from scalesocket.io.transport import SocketTransport
from scalesocket.server.bind import BACKLOG
from scalesocket.server.connections import Connections
from scalesocket.server.listen import Listener, close_all
from scalesocket.server.new_connection import NewConnection
from scalesocket.server.tls import ServerContext
from scalesocket.server.tls_handshake import TlsHandshake


def close_listener(listener: Listener) -> Iterator[socket.socket]:
    """Yield the connections in a listener's queue; then close it, so that no process can accept at it. The caller closes them."""
    try:
        for _ in range(BACKLOG):
            try:
                yield listener.sock.accept()[0]
            except ConnectionAbortedError:  # reset by the peer before it was accepted
                continue
            except OSError:  # none is left, or there is no descriptor for one
                break
    finally:
        if not listener.is_inherited:
            with suppress(OSError):
                listener.sock.shutdown(socket.SHUT_RDWR)  # a process that is stopped has a duplicate
        close_all([listener])


def serve_late(fd: int, connections: Connections, tls: ServerContext | None) -> None:
    """Serve a connection that another process has accepted. Takes ownership of its descriptor."""
    sock = socket.socket(fileno=fd)
    try:
        peer = sock.getpeername()
    except OSError:  # the peer has closed
        sock.close()
        return
    sock.detach()
    if not connections.may_open(fd):
        os.close(fd)
    elif tls is None:
        new = NewConnection(connections, None, is_reserved=fd >= connections.first_reserved)
        SocketTransport(fd, peer, new, poller=connections.poller)
    else:
        TlsHandshake(connections, tls, fd, peer)
