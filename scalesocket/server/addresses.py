"""Resolves the entries of `server.bind` to the socket addresses to listen at."""

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Final

from scalesocket.config.addresses import parse_endpoint
from scalesocket.errors import ScalesocketError
from scalesocket.systemd import InheritedSocketError, adopt_listener

RESOLVE_TIMEOUT: Final = 20.0
"""Seconds to resolve a host name."""


class ListenError(ScalesocketError):
    """An address or a certificate that can't be used for a listener."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of one listening socket."""

    family: socket.AddressFamily
    name: tuple[Any, ...] | str
    """Host and port (and two more numbers for IPv6), or the path of a unix socket, as `getsockname` returns them."""
    fd: int | None = None
    """The inherited descriptor of its socket, if there is one."""

    @property
    def port(self) -> int | None:
        """The TCP port, 0 for any free one; None for a unix socket."""
        return None if isinstance(self.name, str) else self.name[1]

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every interface."""
        return not isinstance(self.name, str) and ip_address(self.name[0].partition("%")[0]).is_unspecified

    def with_port(self, port: int) -> "Address":
        """Return the address with another port."""
        assert not isinstance(self.name, str)
        return replace(self, name=(self.name[0], port, *self.name[2:]))

    def __str__(self) -> str:
        """Format it as in the site file: `127.0.0.1:9000`, `[::1]:9000` or `unix:/run/site.sock`."""
        if isinstance(self.name, str):
            return f"unix:{self.name}"
        host, port = self.name[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


def address_of_socket(sock: socket.socket, *, fd: int | None = None) -> Address:
    """Return the address a socket is bound to."""
    name = sock.getsockname()
    return Address(socket.AddressFamily(sock.family), os.fsdecode(name) if sock.family == socket.AF_UNIX else name, fd)


async def resolve(bind: str) -> tuple[Address, ...]:
    """Resolve `host:port`, `[v6]:port`, `unix:path` or `fd://N`. A host name may have several addresses.

    Raises ListenError.
    """
    if bind.startswith("unix:"):
        return (Address(socket.AF_UNIX, bind.removeprefix("unix:")),)
    if bind.startswith("fd://"):
        fd = int(bind.removeprefix("fd://"))
        try:
            with adopt_listener(fd) as sock:
                return (address_of_socket(sock, fd=fd),)
        except InheritedSocketError as error:
            raise ListenError(f"server.bind: {error}") from error
    endpoint = parse_endpoint(bind)
    try:
        return await look_up(endpoint.host, endpoint.port)
    except TimeoutError as error:
        raise ListenError(f"server.bind: can't listen at {bind}: its host was not found in {RESOLVE_TIMEOUT:.0f} s") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ListenError(f"server.bind: can't listen at {bind}: {reason}") from error


async def look_up(host: str, port: int) -> tuple[Address, ...]:
    """Resolve a host to listen at. A name, unlike an address, is resolved in a thread. Raises OSError."""
    kind = socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST)
    except socket.gaierror:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    return tuple(dict.fromkeys(Address(socket.AddressFamily(family), name) for family, _, _, _, name in found))


def spread(entries: Sequence[Sequence[Address]]) -> list[list[Address]]:
    """Choose the addresses to open for each entry of `bind`, from those it was resolved to.

    A socket for IPv6 accepts only IPv6. `[::]:PORT` also opens a socket for IPv4, unless another entry has that port on IPv4. An
    address of two entries is opened once, and not at all if a wildcard covers it.
    """
    named = [address for entry in entries for address in entry if address.port != 0]
    wildcards = {(address.family, address.port) for address in named if address.is_wildcard}
    ports_of_ipv4 = {address.port for address in named if address.family == socket.AF_INET}
    opened: set[Address] = set()
    result = []
    for entry in entries:
        here: list[Address] = []
        for address in entry:
            is_covered = not address.is_wildcard and (address.family, address.port) in wildcards
            if address.port == 0 or address.fd is not None or not (is_covered or address in opened):
                here.append(address)
            is_for_both = address.family == socket.AF_INET6 and address.is_wildcard and address.fd is None
            if is_for_both and address.port not in ports_of_ipv4:
                here.append(Address(socket.AF_INET, ("0.0.0.0", address.port)))
        opened.update(here)
        result.append(here)
    return result
