"""Listening sockets: opened for a site, and replaced by those of the next without losing a connection.

An edit binds what is new, which takes no connection yet. Only when the whole edit holds, new sockets listen, sockets that
stay are served with the new certificate, and old ones close. A socket stays when its address does, whatever else
changes. Connections that were accepted stay, whatever becomes of their listener.
"""

import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import structlog

from scalesocket.cleanup import logged_faults
from scalesocket.config.model import Server
from scalesocket.config.units import KiB
from scalesocket.server.accept import Acceptor, PlainAcceptor
from scalesocket.server.addresses import Address, ListenError, resolve, spread
from scalesocket.server.bind import bind_all, find_in_the_way, start_listening
from scalesocket.server.connections import Connections
from scalesocket.server.new_connection import address_of
from scalesocket.server.tls import TlsAcceptor, load_tls
from scalesocket.wire.address import parse_address

log = structlog.get_logger("listen")

UNSENT_IN_KERNEL: Final = 64 * KiB
"""Bytes the kernel may hold for a peer beyond those on their way."""

Entry = tuple[str, int]
"""One of `server.bind`, and how many like it stand before it: port 0 is another port each time."""


@dataclass(slots=True, eq=False)
class Listener:
    """One open address."""

    address: Address
    sock: socket.socket
    file: tuple[int, int] | None
    """Device and inode of a unix socket's file."""
    is_inherited: bool
    """Whether another process has the socket, too: it and its file stay open when we close ours."""
    acceptor: Acceptor | None = None
    tls: ssl.SSLContext | None = None

    def serve(self, connections: Connections, tls: ssl.SSLContext | None) -> None:
        """Accept connections, from now on with or without TLS. Those that came before are still served as they were."""
        if self.acceptor is not None:
            if tls is None and self.tls is None:
                return
            self.acceptor.stop()
        self.tls = tls
        if tls is None:
            self.acceptor = PlainAcceptor(self.sock, connections, fixed_address(self.sock))
        else:
            self.acceptor = TlsAcceptor(self.sock, connections, tls)

    def close(self) -> None:
        """Accept no more, and remove the file of a unix socket unless it is another's by now."""
        with logged_faults("accepting the last connections", address=str(self.address)):
            if self.acceptor is not None:
                self.acceptor.stop()
        if self.file is not None and not self.is_inherited and identify(self.address) == self.file:
            with suppress(OSError):
                Path(str(self.address.name)).unlink()
        self.sock.close()


class Listeners:
    """What a server listens at. `prepare` may fail and can be taken back; `commit` can't fail."""

    def __init__(self, connections: Connections) -> None:
        """Let connections in at `connections`."""
        self._connections = connections
        self._open: dict[Address, Listener] = {}
        self._meant: dict[Entry, tuple[Address, ...]] = {}  # what the entries of `bind` were resolved to, with real ports

    @property
    def addresses(self) -> list[str]:
        """Where connections are accepted, with the ports that were found for port 0."""
        return [str(address) for address in self._open]

    async def prepare(self, server: Server) -> "Change":
        """Bind the addresses of `server` that are not open yet, and load its certificate. Raises ListenError.

        Nothing is accepted there before the change is committed. A host name that is listened at is not resolved again.
        """
        tls = load_tls(server.tls) if server.tls is not None else None
        entries: list[Entry] = [(bind, server.bind[:at].count(bind)) for at, bind in enumerate(server.bind)]
        meant = {entry: self._meant.get(entry) or await resolve(entry[0]) for entry in entries}
        # From here on nothing waits: what is bound is soon committed or taken back.
        wanted = spread(list(meant.values()))
        kept = {address: found for address in chain(*wanted) if (found := self._find(address)) is not None}
        change = Change(self, tls, self._closing_with(kept.values()))
        try:
            for entry, addresses in zip(entries, wanted, strict=True):
                change.open(entry, meant[entry], addresses, kept)
        except BaseException:
            change.take_back()
            raise
        return change

    def _find(self, address: Address) -> Listener | None:
        """The open listener of an address. That of a unix socket is recognised by its file, which may be replaced."""
        file = identify(address)
        for found in self._open.values():
            if (found.address.name == address.name and address.port) or (file is not None and found.file == file):
                return found
        return None

    def _closing_with(self, kept: Iterable[Listener]) -> list[Listener]:
        staying = {id(listener) for listener in kept}
        return [listener for listener in self._open.values() if id(listener) not in staying]

    def commit(self, change: "Change") -> None:
        """Listen where the edit wants it, with the new certificate, and close what it no longer wants. Can't fail."""
        in_the_way = change.closing_sockets()
        self._open, self._meant = {}, change.meant
        for address, listener in change.listeners.items():
            with logged_faults("listening", address=str(address)):
                if listener in change.added:
                    if not listener.is_inherited:
                        start_listening(listener.sock, find_in_the_way(in_the_way, address))
                    log.info("listening", address=str(address), tls=change.tls is not None)
                listener.address = address
                self._open[address] = listener
                listener.serve(self._connections, change.tls)
        for listener in change.closing:
            log.info("listening no more", address=str(listener.address))
        failed = [listener for listener in change.added if listener not in self._open.values()]
        close_all([*change.closing, *failed])

    def close(self) -> None:
        """Accept no more anywhere."""
        close_all(self._open.values())
        self._open.clear()
        self._meant.clear()


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """An edit of what is listened at: prepared, to be committed or taken back."""

    owner: Listeners
    tls: ssl.SSLContext | None
    closing: Sequence[Listener]
    """Those that close with it."""
    listeners: dict[Address, Listener] = field(default_factory=dict)
    """All that listen after it, in the order of `server.bind`."""
    added: list[Listener] = field(default_factory=list)
    meant: dict[Entry, tuple[Address, ...]] = field(default_factory=dict)

    def open(
        self, entry: Entry, meant: Sequence[Address], addresses: Sequence[Address], kept: Mapping[Address, Listener]
    ) -> None:
        """Bind those of the addresses of an entry that are not kept. Raises ListenError."""
        missing = [address for address in addresses if address not in kept]
        opened = bind_all(entry[0], missing, self.closing_sockets())
        for address, sock in opened.items():
            self.added.append(Listener(address, sock, identify(address), is_inherited=address.fd is not None))
            if address.port is not None:
                set_options(sock)
        port = next((address.port for address in opened), None)
        found = {address: address.with_port(port) if address.port == 0 and port else address for address in (*meant, *addresses)}
        here = {**kept, **{listener.address: listener for listener in self.added}}
        self.listeners.update((found[address], here[found[address]]) for address in addresses if found[address] in here)
        lacking = {found[address] for address in missing} - opened.keys()
        self.meant[entry] = tuple(found[address] for address in meant if found[address] not in lacking)

    def closing_sockets(self) -> list[socket.socket]:
        """The sockets whose addresses are free after it. Those of inherited ones are not."""
        return [listener.sock for listener in self.closing if not listener.is_inherited]

    def commit(self) -> None:
        """Make it so. Does not wait."""
        self.owner.commit(self)

    def take_back(self) -> None:
        """Close what was opened for it."""
        close_all(self.added)


@asynccontextmanager
async def open_listeners(server: Server, connections: Connections) -> AsyncIterator[Listeners]:
    """Listen at the addresses of `server` until the block ends. Raises ListenError."""
    listeners = Listeners(connections)
    change = await listeners.prepare(server)
    change.commit()
    try:
        if len(listeners.addresses) < len(change.listeners):
            raise ListenError("server.bind: can't listen at one of its addresses (the log says why)")
        yield listeners
    finally:
        listeners.close()


def close_all(listeners: Iterable[Listener]) -> None:
    """Close listeners, each although others fail."""
    for listener in listeners:
        with logged_faults("closing a listener", address=str(listener.address)):
            listener.close()


def identify(address: Address) -> tuple[int, int] | None:
    """Device and inode of a unix socket's file; None where there is none."""
    if address.port is not None:
        return None
    try:
        found = Path(str(address.name)).stat()
    except (OSError, ValueError):  # ValueError: a name without a file, which begins with NUL
        return None
    return found.st_dev, found.st_ino


def set_options(sock: socket.socket) -> None:
    """Set what connections inherit from their listener.

    What a peer can't take yet stays in the transport's buffer, where `send_buffer` sees it, and not in the 4 MiB that the
    kernel would hide; and a message is sent when it is there.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


def fixed_address(sock: socket.socket) -> tuple[str, int] | None:
    """Where all connections of a listening socket arrive; None where each may come to another address, and for a unix socket.

    To ask each connection's socket takes a handshake 1.5 us of its 43.
    """
    address = address_of(sock.getsockname())
    if address is None:
        return None
    ip = parse_address(address[0])
    return None if ip is None or ip.is_unspecified else address
