"""Listening sockets: opened for a site, and replaced by those of the next without losing a connection.

An edit opens what is new first, and closes what is no longer wanted only when the whole edit holds. Connections that
were accepted stay, whatever becomes of their listener.
"""

import asyncio
import errno
import os
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import structlog

from scalesocket.config.certificates import CertificateError, load_pair
from scalesocket.config.model import Server, Tls
from scalesocket.config.units import KiB
from scalesocket.errors import ScalesocketError
from scalesocket.server.door import Door, Entrance, address_of
from scalesocket.systemd import InheritedSocketError, adopt_listener

log = structlog.get_logger("listen")

BACKLOG: Final = 4096
"""Connections the kernel may hold for us; it takes the lesser of this and `net.core.somaxconn`."""
MAX_ACCEPTS: Final = 16
"""Connections accepted in one turn of the loop; out of descriptors asyncio tries, and reports, as many times a second."""
UNSENT_IN_KERNEL: Final = 64 * KiB
"""Bytes the kernel may hold for a peer beyond those on their way."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds to wait when there is no descriptor for a connection."""
PROTOCOLS: Final = ["h2", "http/1.1"]


Address = tuple[Any, ...]
"""What a socket binds to: host and port, and two numbers more for IPv6."""


class ListenError(ScalesocketError):
    """An address that can't be listened at, or a certificate that can't be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """One open address."""

    bind: str
    """As the site file has it."""
    sock: socket.socket
    """Kept beside the server's own, to serve the same address with other settings."""
    servers: "Sequence[asyncio.Server | TlsServer]"
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
        for server in self.servers:
            server.close()
        if self.sock.family == socket.AF_UNIX and self.bind.startswith("unix:") and not is_replaced:
            with suppress(OSError):
                Path(os.fsdecode(self.sock.getsockname())).unlink()
        self.sock.close()


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
        self._accepting = entrance.loop.create_task(self._accept())

    def close(self) -> None:
        """Accept no more. Connections that were accepted stay."""
        self._accepting.cancel()
        self._accepting.add_done_callback(lambda _: self._sock.close())

    async def _accept(self) -> None:
        entrance = self._entrance
        while True:
            for _ in range(MAX_ACCEPTS):
                try:
                    connection, _ = await entrance.loop.sock_accept(self._sock)
                except ConnectionAbortedError:  # by the peer, before it was accepted
                    continue
                except OSError as error:  # out of descriptors: that passes
                    log.warning("can't accept connections", error=str(error))
                    await asyncio.sleep(ACCEPT_PAUSE)
                    continue
                if entrance.has_place():
                    self._start_handshake(connection)
                else:
                    entrance.gateway.refusals["too_many_connections"] += 1
                    connection.close()
            await asyncio.sleep(0)  # while more are there, accepting does not wait

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
                    change.added[bind] = await self._listen(bind, await open_socket(bind, closing), tls)
                elif tls is not None or old.tls is not None:
                    change.added[bind] = await self._listen(bind, old.sock.dup(), tls)
        except BaseException:
            change.take_back()
            raise
        return change

    async def _listen(self, bind: str, sock: socket.socket, tls: ssl.SSLContext | None) -> Listener:
        loop = asyncio.get_running_loop()
        if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Connections inherit it. What a peer can't take yet stays in the transport's buffer, where `send_buffer` sees it,
            # and not in the 4 MiB that the kernel would hide.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)
        if tls is not None:
            own = sock.dup()
            own.setblocking(False)
            return Listener(bind, sock, [TlsServer(own, tls, self._entrance)], tls)
        # libuv accepts one connection a turn from each handle. With as many handles as asyncio accepts at once a crowd is let
        # in at 18.9 k/s instead of 16.3; a single newcomer wakes them all, and costs 115 us instead of 98.
        handles = 1 if isinstance(loop, asyncio.BaseEventLoop) else MAX_ACCEPTS
        listener = Listener(bind, sock, servers := [], tls)
        try:
            make_door = partial(Door, self._entrance, fixed_address(sock))
            for _ in range(handles):
                servers.append(await self._serve(sock.dup(), make_door))
        except BaseException:
            listener.close(is_replaced=True)
            raise
        sock.listen(BACKLOG)  # the loop has set the kernel's queue to what it accepts at once
        return listener

    async def _serve(self, own: socket.socket, make_door: Callable[[], Door]) -> asyncio.Server:
        """Let the loop accept at `own`, which is the loop's from now on."""
        loop = asyncio.get_running_loop()
        try:
            if own.family != socket.AF_UNIX:
                return await loop.create_server(make_door, sock=own, backlog=MAX_ACCEPTS)
            # The file is ours to remove: both loops would do it, since Python 3.13, with a listener that has been replaced.
            options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            return await loop.create_unix_server(make_door, sock=own, backlog=MAX_ACCEPTS, **options)
        except BaseException:
            own.close()
            raise

    def commit(self, change: "Change") -> None:
        """Close what the edit no longer wants, or has replaced."""
        for bind, listener in self._open.items():
            if bind in change.added or bind not in change.binds:
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


async def open_socket(bind: str, closing: Sequence[socket.socket] = ()) -> socket.socket:
    """Open a listening socket for `host:port`, `[v6]:port`, `unix:path` or `fd://N`. Raises ListenError.

    `closing` are sockets of ours that soon listen no more: the new one may overlap them (`0.0.0.0:80` for `127.0.0.1:80`).
    """
    try:
        if bind.startswith("fd://"):
            return adopt_listener(int(bind.removeprefix("fd://")))
        if bind.startswith("unix:"):
            return _open_unix_socket(Path(bind.removeprefix("unix:")))
        host, _, port = bind.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        family, address = await _resolve(host, int(port))
        is_dual = host in ("", "::")
        try:
            return _open_tcp_socket(family, address, is_dual=is_dual)
        except OSError as error:
            in_the_way = [sock for sock in closing if sock.family != socket.AF_UNIX and sock.getsockname()[1] == address[1]]
            if error.errno != errno.EADDRINUSE or not in_the_way:
                raise
            return _open_beside(in_the_way, family, address, is_dual=is_dual)
    except InheritedSocketError as error:
        raise ListenError(f"server.bind: {error}") from error
    except OSError as error:
        hint = " (is another server running? choose another port)" if error.errno == errno.EADDRINUSE else ""
        raise ListenError(f"server.bind: can't listen at {bind}: {(error.strerror or str(error)).lower()}{hint}") from error


async def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    """Look up an address to listen at. Only a name waits for the resolver, and then in a thread."""
    kind = socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(host or None, port, type=kind, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _open_tcp_socket(
    family: socket.AddressFamily, address: Address, *, is_dual: bool, may_overlap: bool = False
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, may_overlap)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_beside(
    in_the_way: Sequence[socket.socket], family: socket.AddressFamily, address: Address, *, is_dual: bool
) -> socket.socket:
    """Open an address that sockets of ours hold until they are closed.

    Linux lets sockets overlap that all have SO_REUSEPORT, also when they get it while they listen. They lose it at once:
    another server must be refused, not share our connections.
    """
    for sock in in_the_way:
        if sock.getsockname() == address:  # the same under another name: two sockets would split what comes
            return sock.dup()
    try:
        for sock in in_the_way:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        beside = _open_tcp_socket(family, address, is_dual=is_dual, may_overlap=True)
        beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return beside
    finally:
        for sock in in_the_way:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _open_unix_socket(path: Path) -> socket.socket:
    """Bind a unix socket, in place of one that a dead server left behind."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                except BlockingIOError as error:  # it lives, with more connections in its queue than it takes
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error
                else:
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
