"""Accepts connections: a bounded number in each event-loop iteration, up to the limit of the server."""

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from typing import Final

import structlog

from scalesocket.admission.refusals import NO_DESCRIPTORS
from scalesocket.io.transport import SocketTransport
from scalesocket.server.bind import BACKLOG
from scalesocket.server.connections import Connections
from scalesocket.server.new_connection import NewConnection

log = structlog.get_logger("listen")

MAX_ACCEPTS: Final = 16
"""Connections accepted in one event-loop iteration."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds to wait after running out of file descriptors."""


class Acceptor(ABC):
    """Accepts connections at one listening socket, from its creation until `stop`."""

    def __init__(self, sock: socket.socket, connections: Connections) -> None:
        """Accept at the non-blocking `sock`, which the caller closes after `stop`."""
        self._sock = sock
        self._connections = connections
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    @abstractmethod
    def start_connection(self, fd: int, peer: object) -> None:
        """Take ownership of the descriptor of an accepted connection. `peer`: the address of its other end."""

    def stop(self) -> None:
        """Accept the connections in the kernel's queue, then stop. Accepted connections stay open.

        Call it before the socket is closed: the kernel then resets the connections in its queue.
        """
        try:
            self._accept(at_most=BACKLOG)
        finally:
            if self._pause is not None:
                self._pause.cancel()
            self._connections.poller.remove_reader(self._sock.fileno())

    def _resume(self) -> None:
        # Not `sock_accept`: cancelling it may lose an accepted connection.
        self._connections.poller.add_reader(self._sock.fileno(), self._accept)

    def _accept(self, at_most: int = MAX_ACCEPTS) -> None:
        connections = self._connections
        for _ in range(at_most):
            try:
                fd, peer = self._sock._accept()  # type: ignore[attr-defined]  # not `accept`, whose socket object costs 3 us
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # reset by the peer before it was accepted
                continue
            except OSError as error:  # out of file descriptors, which is temporary
                log.warning("connections not accepted", error=str(error))
                connections.poller.remove_reader(self._sock.fileno())
                self._pause = connections.loop.call_later(ACCEPT_PAUSE, self._resume)
                return
            is_short = connections.is_short or fd >= connections.first_reserved
            if is_short and not connections.may_stay(fd):
                connections.gateway.refusals[NO_DESCRIPTORS.reason] += 1
                os.close(fd)
            elif connections.has_capacity():
                self.start_connection(fd, peer)
            else:
                connections.gateway.refusals["too_many_connections"] += 1
                os.close(fd)
            if is_short:
                return  # the connection that was cut for this one is closed in the next iteration


class PlainAcceptor(Acceptor):
    """Accepts connections without TLS."""

    def __init__(self, sock: socket.socket, connections: Connections, local: tuple[str, int] | None) -> None:
        """`local`: the address connected to, if it is the same for all connections."""
        self._local = local
        super().__init__(sock, connections)

    def start_connection(self, fd: int, peer: object) -> None:
        """Put a transport on the descriptor and wait for the request head."""
        connections = self._connections
        new = NewConnection(connections, self._local, is_reserved=fd >= connections.first_reserved)
        SocketTransport(fd, peer, new, poller=connections.poller)
