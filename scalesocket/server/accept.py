"""Accepts connections: a bounded number in each event-loop iteration, up to the limit of the server."""

import asyncio
import errno
import math
import os
import socket
from abc import ABC, abstractmethod
from typing import Final

import structlog

from scalesocket.io.transport import SocketTransport
from scalesocket.server.bind import BACKLOG
from scalesocket.server.connections import WARNING_INTERVAL, Connections
from scalesocket.server.kernel import count_unaccepted
from scalesocket.server.new_connection import NewConnection

log = structlog.get_logger("listen")

MAX_ACCEPTS: Final = 16
"""Connections accepted in one event-loop iteration."""
FIRST_PAUSE: Final = 0.05
"""Seconds to wait after running out of file descriptors, unless a connection ends before. Each further pause is twice as long."""
LONGEST_PAUSE: Final = 1.0
"""Seconds."""


class Acceptor(ABC):
    """Accepts connections at one listening socket, from its creation until `stop`."""

    def __init__(self, sock: socket.socket, connections: Connections) -> None:
        """Accept at the non-blocking `sock`, which the caller closes after `stop`."""
        self._sock = sock
        self._connections = connections
        self._pause: asyncio.TimerHandle | None = None
        self._next_pause = FIRST_PAUSE
        self._warned_at = -math.inf
        self._is_left = False
        self._start()

    @abstractmethod
    def start_connection(self, fd: int, peer: object) -> None:
        """Take ownership of the descriptor of an accepted connection. `peer`: the address of its other end."""

    def stop(self) -> None:
        """Accept the connections in the kernel's queue, then stop. Accepted connections stay open.

        Call it before the socket is closed: the kernel then resets the connections in its queue.
        """
        try:
            if not self._is_left:
                self._accept(at_most=BACKLOG)
        finally:
            self.leave()

    def leave(self) -> None:
        """Stop, and leave the connections in the kernel's queue to other processes that accept at the socket."""
        self._is_left = True
        self._end_pause()
        self._connections.poller.remove_reader(self._sock.fileno())

    def resume(self) -> None:
        """End a pause: a connection has ended, or it is over."""
        if self._end_pause():
            self._start()

    def _start(self) -> None:
        # Not `sock_accept`: cancelling it may lose an accepted connection.
        self._connections.poller.add_reader(self._sock.fileno(), self._accept)

    def _end_pause(self) -> bool:
        pause, self._pause = self._pause, None
        self._connections.paused.discard(self)
        if pause is None:
            return False
        pause.cancel()
        return True

    def _begin_pause(self, error: OSError) -> None:
        """Accept nothing for a while: file descriptors have run out, which is temporary."""
        self._end_pause()
        connections = self._connections
        now = connections.loop.time()
        if now - self._warned_at >= WARNING_INTERVAL:
            self._warned_at = now
            log.warning("connections not accepted", error=str(error))
        connections.poller.remove_reader(self._sock.fileno())
        connections.paused.add(self)
        self._pause = connections.loop.call_later(self._next_pause, self.resume)
        self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)

    def _accept(self, at_most: int = MAX_ACCEPTS) -> None:
        connections = self._connections
        if connections.must_make_room():
            return
        for _ in range(min(at_most, count_unaccepted(self._sock) or at_most)):
            try:
                fd, peer = self._sock._accept()  # type: ignore[attr-defined]  # not `accept`, whose socket object costs 3 us
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # reset by the peer before it was accepted
                continue
            except OSError as error:
                if error.errno == errno.EINVAL:  # the supervisor has shut the socket down: an edit has removed its address
                    self.leave()
                else:
                    self._begin_pause(error)
                return
            self._next_pause = FIRST_PAUSE
            is_short = connections.is_short or fd >= connections.first_reserved
            if connections.may_open(fd):
                self.start_connection(fd, peer)
            else:
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
