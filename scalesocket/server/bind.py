"""Opens the sockets of `server.bind`: TCP, unix, or inherited from systemd."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from scalesocket.errors import ScalesocketError
from scalesocket.systemd import InheritedSocketError, adopt_listener

BACKLOG: Final = 4096
"""Connections the kernel may hold for us; it takes the lesser of this and `net.core.somaxconn`."""

Address = tuple[Any, ...]
"""What a socket binds to: host and port, and two numbers more for IPv6."""


class ListenError(ScalesocketError):
    """An address that can't be listened at, or a certificate that can't be used."""


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
