"""Accepts connections, some in each turn of the loop, as long as there is place for them."""

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from typing import Final

import structlog

from scalesocket.io.transport import SocketTransport
from scalesocket.server.bind import BACKLOG
from scalesocket.server.connections import Connections
from scalesocket.server.new_connection import NewConnection

log = structlog.get_logger("listen")

MAX_ACCEPTS: Final = 16
"""Connections accepted in one turn of the loop."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds to wait when there is no descriptor for a connection."""


class Acceptor(ABC):
    """Accepts connections at one listening socket, from when it is made until it is stopped."""

    def __init__(self, sock: socket.socket, connections: Connections) -> None:
        """Accept at `sock`, which does not block, and stays its owner's."""
        self._sock = sock
        self._connections = connections
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    @abstractmethod
    def welcome(self, fd: int, peer: object) -> None:
        """Take over the descriptor of a connection for which there is place. `peer`: its other end."""

    def stop(self) -> None:
        """Accept no more, once those have been accepted that are connected already. Connections that were accepted stay.

        Must be called before the socket is closed: the kernel resets connections that nobody has accepted by then.
        """
        try:
            self._accept(at_most=BACKLOG)
        finally:
            if self._pause is not None:
                self._pause.cancel()
            self._connections.poller.remove_reader(self._sock.fileno())

    def _resume(self) -> None:
        # Not `sock_accept`: to cancel it may lose a connection that was accepted, and nobody was told of.
        self._connections.poller.add_reader(self._sock.fileno(), self._accept)

    def _accept(self, at_most: int = MAX_ACCEPTS) -> None:
        connections = self._connections
        for _ in range(at_most):
            try:
                fd, peer = self._sock._accept()  # type: ignore[attr-defined]  # not `accept`, which makes a socket object: 3 us of a handshake
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # by the peer, before it was accepted
                continue
            except OSError as error:  # out of descriptors: that passes
                log.warning("can't accept connections", error=str(error))
                connections.poller.remove_reader(self._sock.fileno())
                self._pause = connections.loop.call_later(ACCEPT_PAUSE, self._resume)
                return
            if connections.has_capacity():
                self.welcome(fd, peer)
            else:
                connections.gateway.refusals["too_many_connections"] += 1
                os.close(fd)


class PlainAcceptor(Acceptor):
    """Leads connections to the door as they are."""

    def __init__(self, sock: socket.socket, connections: Connections, local: tuple[str, int] | None) -> None:
        """`local`: the address connected to, where it is the same for all connections."""
        self._local = local
        super().__init__(sock, connections)

    def welcome(self, fd: int, peer: object) -> None:
        """Open a door for it."""
        connections = self._connections
        SocketTransport(fd, peer, NewConnection(connections, self._local), poller=connections.poller, loop=connections.loop)
