"""The listening sockets of a site. An edit replaces them without losing a connection.

Preparing an edit binds the new addresses, which accept no connections yet. Committing it starts to listen at them, uses the new
certificate at sockets that stay, and closes old sockets. A socket stays open as long as its address does. Accepted connections
stay open in any case.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import structlog

from scalesocket.cleanup import logged_faults
from scalesocket.config.certificates import Pair
from scalesocket.config.model import Server
from scalesocket.server.accept import Acceptor, PlainAcceptor
from scalesocket.server.addresses import Address, ListenError, resolve, spread
from scalesocket.server.bind import bind_all, find_in_the_way, set_options, start_listening, stop_arrivals
from scalesocket.server.connections import Connections
from scalesocket.server.expiry import ExpiryWarnings
from scalesocket.server.new_connection import address_of
from scalesocket.server.tls import ServerContext, TlsAcceptor, load_tls_of
from scalesocket.wire.address import parse_address

log = structlog.get_logger("listen")

Given = Mapping[Address, socket.socket]
"""Listening sockets from another process."""
Entry = tuple[str, int]
"""An entry of `server.bind`, and the number of equal entries before it: port 0 is another port each time."""


@dataclass(slots=True, eq=False)
class Listener:
    """One open address."""

    address: Address
    sock: socket.socket
    file: tuple[int, int] | None
    """Device and inode of a unix socket's file."""
    is_inherited: bool
    """Whether another process has the socket, too. Then the socket and its file outlive this listener."""
    acceptor: Acceptor | None = None
    tls: ssl.SSLContext | None = None

    def serve(self, connections: Connections | None, tls: ssl.SSLContext | None) -> None:
        """Accept connections, from now on with or without TLS. Those in the kernel's queue are served as before.

        None: nothing is accepted in this process.
        """
        if connections is None:
            return
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
        """Close the socket, and remove the file of a unix socket unless another server has replaced it."""
        if not self.is_inherited:
            stop_arrivals(self.sock)
        with logged_faults("accepting the last connections", address=str(self.address)):
            if self.acceptor is not None:
                self.acceptor.stop()
        if self.file is not None and not self.is_inherited and identify(self.address) == self.file:
            with suppress(OSError):
                Path(str(self.address.name)).unlink()
        self.sock.close()


class Listeners:
    """The open listeners of a server. `prepare` may fail and can be undone; `commit` can't fail."""

    def __init__(self, connections: Connections | None, **log_keys: str) -> None:
        """Add accepted connections to `connections`. `log_keys`: what the log says of each listener.

        Without `connections` the sockets are held for other processes, which accept at them.
        """
        self._connections = connections
        self._log = log.bind(**log_keys)
        self._open: dict[Address, Listener] = {}
        self.tls: ServerContext | None = None
        """The certificate in use."""
        self._expiry = ExpiryWarnings("server.tls.certificate")
        self._meant: dict[Entry, tuple[Address, ...]] = {}  # what entries of `bind` were resolved to, with real ports

    @property
    def addresses(self) -> list[str]:
        """The addresses of the open listeners, with real ports for port 0."""
        return [str(address) for address in self._open]

    @property
    def sockets(self) -> Sequence[tuple[Address, socket.socket]]:
        """The open listeners' sockets, for another process to accept at (`prepare_given`)."""
        return [(address, listener.sock) for address, listener in self._open.items()]

    def leave(self) -> None:
        """Accept nothing more, and leave the connections in the kernel's queues to other processes."""
        for listener in self._open.values():
            if listener.acceptor is not None:
                listener.acceptor.leave()

    async def prepare(self, server: Server) -> "Change":
        """Bind the addresses of `server` that are not open yet, and load its certificate. Raises ListenError.

        They accept nothing before the change is committed. Host names of open listeners are not resolved again.
        """
        tls = await load_tls_of(server)
        entries: list[Entry] = [(bind, server.bind[:at].count(bind)) for at, bind in enumerate(server.bind)]
        meant = {entry: self._meant.get(entry) or await resolve(entry[0]) for entry in entries}
        # No await from here on: bound sockets are committed or closed soon.
        wanted = spread(list(meant.values()))
        kept = {address: found for address in chain(*wanted) if (found := self._find(address)) is not None}
        change = Change(self, tls, self._closing_with(kept.values()))
        try:
            for entry, addresses in zip(entries, wanted, strict=True):
                change.open(entry, meant[entry], addresses, kept)
        except BaseException:
            change.roll_back()
            raise
        return change

    def prepare_given(self, tls: ServerContext | None, given: Given) -> "Change":
        """Accept at these sockets, which another process has bound, and at no others. Duplicates of open ones are closed."""
        ours = {os.fstat(listener.sock.fileno()).st_ino: listener for listener in self._open.values()}
        change = Change(self, tls, [], is_given=True)
        for address, sock in given.items():
            listener = ours.pop(os.fstat(sock.fileno()).st_ino, None)
            if listener is None:
                listener = Listener(address, sock, None, is_inherited=True)
                change.added.append(listener)
            else:
                sock.close()
            change.listeners[address] = listener
        return replace(change, closing=list(ours.values()))

    def _find(self, address: Address) -> Listener | None:
        """Find the open listener of an address. A unix socket is compared by its file, which may have been replaced."""
        file = identify(address)
        for found in self._open.values():
            if (found.address.name == address.name and address.port) or (file is not None and found.file == file):
                return found
        return None

    def _closing_with(self, kept: Iterable[Listener]) -> list[Listener]:
        staying = {id(listener) for listener in kept}
        return [listener for listener in self._open.values() if id(listener) not in staying]

    def commit(self, change: "Change", *, keeps_old: bool = False) -> None:
        """Listen at the new addresses, use the new certificate, and close listeners that are no longer wanted. Can't fail.

        `keeps_old`: the caller closes those when no other process accepts at them.
        """
        in_the_way = change.closing_sockets()
        self._open, self._meant, self.tls = {}, change.meant, change.tls
        for address, listener in change.listeners.items():
            with logged_faults("listening", address=str(address)):
                if listener in change.added:
                    if not listener.is_inherited:
                        start_listening(listener.sock, find_in_the_way(in_the_way, address))
                    if not change.is_given:
                        self._log.info("listening", address=str(address), tls=change.tls is not None)
                listener.address = address
                self._open[address] = listener
                listener.serve(self._connections, change.tls)
        if not change.is_given:  # else the process that has bound the sockets logs it
            with logged_faults("checking the validity of the certificate"):
                self._expiry.watch(change.tls.validity if change.tls is not None else None)
            for listener in change.closing:
                self._log.info("stopped listening", address=str(listener.address))
        failed = [listener for listener in change.added if listener not in self._open.values()]
        close_all(failed if keeps_old else [*change.closing, *failed])

    def close(self) -> None:
        """Close all listeners."""
        self._expiry.stop()
        close_all(self._open.values())
        self._open.clear()
        self._meant.clear()


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A prepared change of listeners, to be committed or undone."""

    owner: Listeners
    tls: ServerContext | None
    closing: Sequence[Listener]
    """Listeners that it closes."""
    listeners: dict[Address, Listener] = field(default_factory=dict)
    """All listeners after it, in the order of `server.bind`."""
    added: list[Listener] = field(default_factory=list)
    meant: dict[Entry, tuple[Address, ...]] = field(default_factory=dict)
    is_given: bool = False
    """Whether another process has bound the sockets."""

    def open(
        self, entry: Entry, meant: Sequence[Address], addresses: Sequence[Address], kept: Mapping[Address, Listener]
    ) -> None:
        """Bind the addresses of an entry that are not open yet (`kept`). Raises ListenError."""
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
        """Return the sockets whose addresses become free. Addresses of inherited sockets do not."""
        return [listener.sock for listener in self.closing if not listener.is_inherited]

    def commit(self) -> None:
        """Apply the change."""
        self.owner.commit(self)

    def roll_back(self) -> None:
        """Close the sockets that were opened for it."""
        close_all(self.added)


@asynccontextmanager
async def open_listeners(
    server: Server, connections: Connections | None, given: Given | None = None, pair: Pair | None = None
) -> AsyncIterator[Listeners]:
    """Listen at the addresses of `server` until the block ends; or accept at the sockets that are given. Raises ListenError.

    Without `connections` the sockets are held for other processes (`Listeners`). `pair`: see `load_tls`.
    """
    listeners = Listeners(connections)
    if given is None:
        change = await listeners.prepare(server)
    else:
        change = listeners.prepare_given(await load_tls_of(server, pair), given)
    change.commit()
    try:
        if len(listeners.addresses) < len(change.listeners):
            raise ListenError("server.bind: can't listen at one of its addresses (see the log)")
        yield listeners
    finally:
        listeners.close()


def close_all(listeners: Iterable[Listener]) -> None:
    """Close listeners; a failure of one does not keep the others from it."""
    for listener in listeners:
        with logged_faults("closing a listener", address=str(listener.address)):
            listener.close()


def identify(address: Address) -> tuple[int, int] | None:
    """Return device and inode of a unix socket's file; None for TCP, or without a file."""
    if address.port is not None:
        return None
    try:
        found = Path(str(address.name)).stat()
    except (OSError, ValueError):  # ValueError: an abstract name, which begins with NUL
        return None
    return found.st_dev, found.st_ino


def fixed_address(sock: socket.socket) -> tuple[str, int] | None:
    """Return the local address of all connections of a listening socket; None for a wildcard address or a unix socket.

    To ask the socket of each connection would cost a handshake 1.5 us.
    """
    address = address_of(sock.getsockname())
    if address is None:
        return None
    ip = parse_address(address[0])
    return None if ip is None or ip.is_unspecified else address
