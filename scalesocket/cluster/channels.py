"""Connections to the listener of another node, with TLS and without, from their opening to the stream of a client's bytes."""

import asyncio
import select
import socket
import ssl
from collections.abc import MutableSet
from contextlib import suppress
from typing import Final, cast

from scalesocket.cluster.keep_alive import keep_alive, set_user_timeout
from scalesocket.cluster.preamble import GREETING_SIZE, parse_greeting
from scalesocket.cluster.secured import SecuredStream
from scalesocket.config.units import KiB
from scalesocket.io.poller import Poller

MAX_UNREAD: Final = 64 * KiB
"""Bytes of a TLS connection above which nothing more is read, until they are asked for."""


class PlainChannel:
    """A connection without TLS. It reads no byte too many, so that its descriptor can be handed on."""

    def __init__(self, sock: socket.socket) -> None:
        self.nonce = b""
        self.timer: asyncio.TimerHandle | None = None
        self._socket = sock
        self._loop = asyncio.get_running_loop()

    def is_usable(self) -> bool:
        """Return whether nothing has arrived, not even an end."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    async def send(self, preamble: bytes) -> None:
        """Send a preamble. Raises OSError."""
        await self._loop.sock_sendall(self._socket, preamble)

    async def read(self, size: int) -> bytes:
        """Read so many bytes, and no more. Raises OSError or EOFError."""
        received = bytearray()
        while len(received) < size:
            chunk = await self._loop.sock_recv(self._socket, size - len(received))
            if not chunk:
                raise EOFError
            received += chunk
        return bytes(received)

    def detach(self) -> socket.socket:
        """Return the connection."""
        return self._socket

    def set_patience(self, seconds: float) -> None:
        """End the connection if the other end does not acknowledge what was sent for so long."""
        set_user_timeout(self._socket, seconds)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class TlsChannel(asyncio.Protocol):
    """A connection with TLS."""

    _transport: asyncio.Transport

    def __init__(self, poller: Poller, streams: MutableSet[SecuredStream]) -> None:
        """`streams`: gets the stream that `detach` makes, until it ends."""
        self.nonce = b""
        self.timer: asyncio.TimerHandle | None = None
        self._poller = poller
        self._streams = streams
        self._received = bytearray()
        self._has_ended = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's TLS has a class of its own

    def data_received(self, chunk: bytes) -> None:
        """Called by the event loop."""
        self._received += chunk
        self._changed.set()
        if len(self._received) > MAX_UNREAD:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._has_ended = True
        self._changed.set()

    def is_usable(self) -> bool:
        """Return whether nothing has arrived, not even an end."""
        return not self._received and not self._has_ended

    async def send(self, preamble: bytes) -> None:
        """Send a preamble: what the kernel does not take is sent later. Raises OSError."""
        if self._has_ended:
            raise ConnectionResetError
        self._transport.write(preamble)

    async def read(self, size: int) -> bytes:
        """Read so many bytes. Raises EOFError."""
        while len(self._received) < size:
            if self._has_ended:
                raise EOFError
            self._changed.clear()
            with suppress(RuntimeError):  # asyncio raises it when the connection is lost
                self._transport.resume_reading()
            await self._changed.wait()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def detach(self) -> socket.socket:
        """Return one end of a socket pair, between whose other end and the connection bytes are copied."""
        ours, theirs = socket.socketpair()
        stream = SecuredStream(
            self._transport, ours.detach(), bytes(self._received), poller=self._poller, on_lost=self._streams.discard
        )
        self._streams.add(stream)
        return theirs

    def set_patience(self, seconds: float) -> None:
        """End the connection if the other end does not acknowledge what was sent for so long."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            set_user_timeout(sock, seconds)

    def close(self) -> None:
        """Abort the connection."""
        self._transport.abort()


async def open_plain(address: str) -> PlainChannel:
    """Connect and receive the greeting. Raises OSError, EOFError or PreambleError."""
    sock = await _connect(address)
    channel = PlainChannel(sock)
    try:
        channel.nonce = parse_greeting(await channel.read(GREETING_SIZE))
    except BaseException:
        channel.close()
        raise
    return channel


async def open_tls(address: str, tls: ssl.SSLContext, poller: Poller, streams: MutableSet[SecuredStream]) -> TlsChannel:
    """Connect, perform the TLS handshake, and receive the greeting. Raises OSError, EOFError or PreambleError."""
    sock = await _connect(address)
    channel = TlsChannel(poller, streams)
    await poller.loop.create_connection(lambda: channel, sock=sock, ssl=tls, server_hostname="")  # closes it if this fails
    try:
        channel.nonce = parse_greeting(await channel.read(GREETING_SIZE))
    except BaseException:
        channel.close()
        raise
    return channel


async def _connect(address: str) -> socket.socket:
    """Connect to `host:port`; the address in brackets for IPv6. Raises OSError."""
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if (family := _family_of(host)) is not None:
        return await _connect_to(family, (host, int(port)))
    error = OSError(f"{host} has no address")
    for family, _, _, _, where in await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM):
        try:
            return await _connect_to(family, where)
        except OSError as failed:
            error = failed
    raise error


def _family_of(host: str) -> int | None:
    """Return the family of an address; None for a name, for which the resolver has to be asked."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, host)
            return family
    return None


async def _connect_to(family: int, where: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.setblocking(False)
        keep_alive(sock)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock
