"""Listening sockets: opened for a site, and replaced by those of the next without losing a connection.

An edit opens what is new first, and closes what is no longer wanted only when the whole edit holds. Connections that
were accepted stay, whatever becomes of their listener.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import structlog

from scalesocket.config.model import Server
from scalesocket.config.units import KiB
from scalesocket.server.accept import Acceptor, PlainAcceptor
from scalesocket.server.bind import open_socket
from scalesocket.server.door import Entrance, address_of
from scalesocket.server.tls import TlsAcceptor, load_tls

log = structlog.get_logger("listen")

UNSENT_IN_KERNEL: Final = 64 * KiB
"""Bytes the kernel may hold for a peer beyond those on their way."""


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """One open address."""

    bind: str
    """As the site file has it."""
    sock: socket.socket
    """Kept beside the acceptor's own, to serve the same address with other settings."""
    acceptor: Acceptor
    tls: ssl.SSLContext | None

    @property
    def address(self) -> str:
        """Where it listens: `127.0.0.1:9000`, `[::1]:9000` or `unix:/run/site.sock`."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{os.fsdecode(name)}"
        return f"[{name[0]}]:{name[1]}" if self.sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"

    def close(self, *, is_replaced: bool = False) -> None:
        """Accept no more. `is_replaced`: another listener serves the same address, so a unix socket's file stays."""
        self.acceptor.close()
        if self.sock.family == socket.AF_UNIX and self.bind.startswith("unix:") and not is_replaced:
            with suppress(OSError):
                Path(os.fsdecode(self.sock.getsockname())).unlink()
        self.sock.close()


class Listeners:
    """What a server listens at. `prepare` may fail and can be taken back; `commit` can't fail."""

    def __init__(self, entrance: Entrance) -> None:
        """Let connections in at `entrance`."""
        self._entrance = entrance
        self._open: dict[str, Listener] = {}

    @property
    def addresses(self) -> list[str]:
        """Where connections are accepted, with the ports that were found for port 0."""
        return [listener.address for listener in self._open.values()]

    async def prepare(self, server: Server) -> "Change":
        """Open the addresses of `server` that are not open yet, and load its certificate. Raises ListenError.

        With TLS every address gets another listener on the same socket, which has the certificate as it is now.
        """
        tls = load_tls(server.tls) if server.tls is not None else None
        change = Change(self, server.bind, {})
        closing = [listener.sock for bind, listener in self._open.items() if bind not in server.bind]
        try:
            for bind in server.bind:
                old = self._open.get(bind)
                if old is None:
                    change.added[bind] = self._listen(bind, await open_socket(bind, closing), tls)
                elif tls is not None or old.tls is not None:
                    change.added[bind] = self._listen(bind, old.sock.dup(), tls)
        except BaseException:
            change.take_back()
            raise
        return change

    def _listen(self, bind: str, sock: socket.socket, tls: ssl.SSLContext | None) -> Listener:
        if sock.family != socket.AF_UNIX:
            # Connections inherit both. What a peer can't take yet stays in the transport's buffer, where `send_buffer` sees
            # it, and not in the 4 MiB that the kernel would hide; and a message is sent when it is there.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)
        own = sock.dup()
        own.setblocking(False)
        acceptor = (
            PlainAcceptor(own, self._entrance, fixed_address(sock)) if tls is None else TlsAcceptor(own, self._entrance, tls)
        )
        return Listener(bind, sock, acceptor, tls)

    def commit(self, change: "Change") -> None:
        """Close what the edit no longer wants, or has replaced."""
        for bind, listener in self._open.items():
            if bind in change.added or bind not in change.binds:
                if bind not in change.binds:
                    log.info("listening no more", address=listener.address)
                listener.close(is_replaced=bind in change.added)
        added = [listener for bind, listener in change.added.items() if bind not in self._open]
        self._open = {bind: change.added.get(bind) or self._open[bind] for bind in change.binds}
        for listener in added:
            log.info("listening", address=listener.address, tls=listener.tls is not None)

    def close(self) -> None:
        """Accept no more anywhere."""
        for listener in self._open.values():
            listener.close()
        self._open.clear()

    def is_open(self, bind: str) -> bool:
        """Whether this address is listened at."""
        return bind in self._open


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """An edit of what is listened at: prepared, to be committed or taken back."""

    listeners: Listeners
    binds: Sequence[str]
    added: dict[str, Listener]

    def commit(self) -> None:
        """Make it so. Does not wait."""
        self.listeners.commit(self)

    def take_back(self) -> None:
        """Close what was opened for it."""
        for bind, listener in self.added.items():
            listener.close(is_replaced=self.listeners.is_open(bind))


@asynccontextmanager
async def open_listeners(server: Server, entrance: Entrance) -> AsyncIterator[Listeners]:
    """Listen at the addresses of `server` until the block ends. Raises ListenError."""
    listeners = Listeners(entrance)
    (await listeners.prepare(server)).commit()
    try:
        yield listeners
    finally:
        listeners.close()


def fixed_address(sock: socket.socket) -> tuple[str, int] | None:
    """Where all connections of a listening socket arrive; None where each may come to another address, and for a unix socket.

    To ask each connection's socket takes a handshake 1.5 us of its 43.
    """
    address = address_of(sock.getsockname())
    if address is None:
        return None
    ip = ip_address(address[0].partition("%")[0])
    return None if (getattr(ip, "ipv4_mapped", None) or ip).is_unspecified else address
