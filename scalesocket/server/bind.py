"""Opens listening sockets in two steps: `bind_all` reserves the addresses, `start_listening` accepts connections.

A socket that is only bound refuses connections. It lacks SO_REUSEADDR, so no other process can bind the address and listen
first.
"""

import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from scalesocket.config.units import KiB
from scalesocket.server.addresses import Address, ListenError, address_of_socket
from scalesocket.systemd import InheritedSocketError, adopt_listener

log = structlog.get_logger("listen")

BACKLOG: Final = 4096
"""Connections that the kernel may queue; it uses the lesser of this and `net.core.somaxconn`."""
PORT_TRIES: Final = 20
"""Ports that are tried for port 0 until one is free at all addresses of its entry."""
UNSENT_IN_KERNEL: Final = 64 * KiB
"""Unsent bytes that the kernel may hold for a connection."""
SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
WITHOUT_SYN: Final = (
    struct.pack("=HBBI", 0x30, 0, 0, 13)  # load the byte 13 of the TCP header, the flags (RFC 9293 3.1)
    + struct.pack("=HBBI", 0x45, 0, 1, 0x02)  # if it has not SYN, skip an instruction
    + struct.pack("=HBBI", 0x06, 0, 0, 0)  # drop the packet
    + struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF)  # take it
)
"""A packet filter (linux/bpf_common.h) that lets no handshake begin, and those go on that have begun."""
NOT_LOCAL: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""The errno of an address that this machine does not have."""


def bind_all(bind: str, addresses: Sequence[Address], closing: Sequence[socket.socket] = ()) -> dict[Address, socket.socket]:
    """Bind a socket for each address of one entry of `server.bind`. Inherited sockets listen already.

    Port 0 is the same free port for all of them. An address that this machine does not have is skipped, unless it is the only
    one. `closing`: sockets of this server that will close; new ones may overlap them (`0.0.0.0:80` for `127.0.0.1:80`). Raises
    ListenError.
    """
    for tries_left in reversed(range(PORT_TRIES)):
        opened: dict[Address, socket.socket] = {}
        try:
            _bind_each(addresses, closing, opened)
        except BaseException as error:
            for sock in opened.values():
                discard(sock)
            is_any_port = bool(addresses) and addresses[0].port == 0
            if is_any_port and tries_left and isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                continue
            if isinstance(error, OSError):
                raise _explain(error, bind) from error
            raise
        break
    return opened


class AddressError(OSError):
    """An OSError, with the address that it is about."""

    def __init__(self, error: OSError, address: Address) -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self.address = address


def _bind_each(addresses: Sequence[Address], closing: Sequence[socket.socket], opened: dict[Address, socket.socket]) -> None:
    port = 0
    for left, address in zip(reversed(range(len(addresses))), addresses, strict=True):
        wanted = address.with_port(port) if address.port == 0 else address
        try:
            sock = _bind(wanted, closing)
        except OSError as error:
            if error.errno in NOT_LOCAL and (opened or left) and not wanted.is_wildcard:
                log.warning(
                    "address skipped", address=str(wanted), hint="this machine does not have this address of the host name"
                )
                continue
            raise AddressError(error, wanted) from error
        found = address_of_socket(sock, fd=address.fd)
        opened[found] = sock
        port = found.port or 0


def _bind(address: Address, closing: Sequence[socket.socket]) -> socket.socket:
    if address.fd is not None:
        try:
            return adopt_listener(address.fd)
        except InheritedSocketError as error:
            raise ListenError(f"server.bind: {error}") from error
    if isinstance(address.name, str):
        return _bind_unix_socket(Path(address.name))
    try:
        return _bind_tcp_socket(address)
    except OSError as error:
        in_the_way = find_in_the_way(closing, address)
        if error.errno != errno.EADDRINUSE or not in_the_way:
            raise
        with _sharing(in_the_way):
            return _bind_tcp_socket(address, may_overlap=True)


def _explain(error: OSError, bind: str) -> ListenError:
    where = f" ({error.address})" if isinstance(error, AddressError) and str(error.address) != bind else ""
    hint = " (is another server running? choose another port)" if error.errno == errno.EADDRINUSE else ""
    return ListenError(f"server.bind: can't listen at {bind}{where}: {(error.strerror or str(error)).lower()}{hint}")


def find_in_the_way(socks: Sequence[socket.socket], address: Address) -> list[socket.socket]:
    """Return the sockets with the port of `address`, which a new socket for it may overlap."""
    return [sock for sock in socks if sock.family != socket.AF_UNIX and sock.getsockname()[1] == address.port]


def start_listening(sock: socket.socket, in_the_way: Sequence[socket.socket] = ()) -> None:
    """Accept connections at a bound socket, which may overlap the sockets `in_the_way`.

    Raises OSError, which is unlikely after `bind_all`.
    """
    if sock.family == socket.AF_UNIX:
        sock.listen(BACKLOG)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with _sharing((*in_the_way, sock) if in_the_way else ()):
        sock.listen(BACKLOG)


def set_options(sock: socket.socket) -> None:
    """Set the options that connections inherit from their listener.

    Messages are sent without Nagle's delay. Unsent bytes stay in the transport's buffer, where `send_buffer` counts them, instead
    of up to 4 MiB in the kernel.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


def stop_arrivals(sock: socket.socket) -> None:
    """Refuse new connections to a listening socket. Those in its queue can still be accepted; closing it would reset them.

    TCP drops what begins a connection. The peer sends that again after a second, to a socket that has the address by then, or is
    refused.
    """
    with suppress(OSError):
        if sock.family == socket.AF_UNIX:
            sock.shutdown(socket.SHUT_RDWR)
        else:
            program = ctypes.create_string_buffer(WITHOUT_SYN)
            sock.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(WITHOUT_SYN) // 8, ctypes.addressof(program))
            )


def discard(sock: socket.socket) -> None:
    """Close a socket that never listened, and remove its file."""
    if sock.family == socket.AF_UNIX and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        Path(os.fsdecode(sock.getsockname())).unlink(missing_ok=True)
    sock.close()


@contextmanager
def _sharing(socks: Sequence[socket.socket]) -> Iterator[None]:
    """Let sockets overlap within the block.

    Linux lets sockets overlap that all have SO_REUSEPORT, even if they get it while they listen. They lose it after the block, so
    that no other server can share the connections.
    """
    try:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield
    finally:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _bind_tcp_socket(address: Address, *, may_overlap: bool = False) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # otherwise connections in TIME_WAIT block the port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, may_overlap)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address.name)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix_socket(path: Path) -> socket.socket:
    """Bind a unix socket. Replaces the file of a server that no longer runs."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                except BlockingIOError as error:  # its server runs, and its queue is full
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error
                else:
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    return sock
