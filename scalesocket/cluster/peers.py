"""The listener for other nodes, which hand connections over and pass requests of operators on (preamble.py).

Peers that do not know the secret cost a descriptor, for a few seconds at most, and 70 bytes.
"""

import asyncio
import os
import socket
import ssl
from functools import partial
from typing import Final

from scalesocket.cluster.arrivals import PREAMBLE_TIMEOUT, Arrivals, PeerConnection, PeerHandlers
from scalesocket.cluster.keep_alive import keep_alive
from scalesocket.io.descriptors import first_reserved
from scalesocket.io.poller import Poller
from scalesocket.io.transport import SocketTransport

__all__ = ["PeerHandlers", "PeerListener"]

MAX_WAITING: Final = 512
"""Connections without a complete preamble, and refused ones. One more ends the one that has waited longest."""
ACCEPTS: Final = 16
"""Connections accepted in one event-loop iteration."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds without accepting, when no descriptor is left."""


class PeerListener(Arrivals):
    """Listens for other nodes until `close`."""

    def __init__(
        self, sock: socket.socket, secret: bytes, handlers: PeerHandlers, *, poller: Poller, tls: ssl.SSLContext | None = None
    ) -> None:
        """Accept at `sock`, which listens; the caller closes it after `close`. `tls`: for connections with TLS."""
        super().__init__(secret, handlers, poller)
        self.tls = tls
        """May be replaced, for new connections."""
        self._sock = sock
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._first_reserved = first_reserved()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        keep_alive(sock)  # the connections inherit it
        poller.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more, and cut everything that is not handed over yet, and all TLS connections. Calls may repeat."""
        if self._sock.fileno() >= 0:
            self.poller.remove_reader(self._sock.fileno())
        if self._pause is not None:
            self._pause.cancel()
        for task in tuple(self._handshakes):
            task.cancel()
        self.cut_all()

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                fd, peer = self._sock._accept()  # type: ignore[attr-defined]  # not `accept`, whose socket object costs 3 us
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self.poller.remove_reader(self._sock.fileno())
                self._pause = self.poller.loop.call_later(ACCEPT_PAUSE, self.poller.add_reader, self._sock.fileno(), self._accept)
                self.warn("connection of a node not accepted", None, error=error.strerror)
                return
            if fd >= self._first_reserved:
                os.close(fd)
                self.results["cut"] += 1
            else:
                self._start(fd, peer)

    def _start(self, fd: int, peer: object) -> None:
        if len(self.waiting) + len(self._handshakes) >= MAX_WAITING:
            self._cut_oldest()
        if self.tls is None:
            SocketTransport(fd, peer, PeerConnection(self, peer), poller=self.poller)
            return
        accepted = socket.socket(fileno=fd)
        accepted.setblocking(False)
        unstarted = [accepted]
        task = self.poller.loop.create_task(self._shake_hands(unstarted, peer, self.tls))
        self._handshakes[task] = None
        task.add_done_callback(partial(self._end_handshake, unstarted))

    def _cut_oldest(self) -> None:
        if self.waiting:
            next(iter(self.waiting)).cut("cut")
        else:
            task = next(iter(self._handshakes))
            del self._handshakes[task]
            task.cancel()

    async def _shake_hands(self, unstarted: list[socket.socket], peer: object, tls: ssl.SSLContext) -> None:
        """Perform the TLS handshake of the one connection in `unstarted`."""
        accepted = unstarted.pop()
        try:
            await self.poller.loop.connect_accepted_socket(  # which closes it if this fails
                lambda: PeerConnection(self, peer), accepted, ssl=tls, ssl_handshake_timeout=PREAMBLE_TIMEOUT
            )
        except OSError as error:  # no certificate, a wrong one, no TLS, or too late
            self.results["no_tls"] += 1
            self.warn("TLS with another node failed", peer, error=str(error) or "it has closed the connection")

    def _end_handshake(self, unstarted: list[socket.socket], task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        for accepted in unstarted:  # it was cancelled before its first step
            accepted.close()
