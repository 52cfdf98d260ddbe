"""Connections to the listener of another node, with TLS and without, from their opening to the stream of a client's bytes."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import MutableSet, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final, Protocol, cast

from scalesocket.cluster.keep_alive import keep_alive, set_user_timeout
from scalesocket.cluster.preamble import GREETING_SIZE, PreambleError, parse_greeting
from scalesocket.cluster.secured import SecuredStream
from scalesocket.config.units import KiB
from scalesocket.io.deadlines import Deadlines
from scalesocket.io.poller import Poller
from scalesocket.placement.stream import InnerTransport, Stream, open_stream

MAX_UNREAD: Final = 64 * KiB
"""Bytes above which nothing more is read, until they are asked for."""


Address = tuple[object, ...]


class NotesChange(Protocol):
    """Receives the events of a channel."""

    def note_change(self) -> None:
        """Something has arrived, or the connection has ended."""


class Channel(asyncio.Protocol):
    """A connection to a listener, from its opening to the stream of a client's bytes."""

    __slots__ = ("_end", "_is_asked", "_received", "_transport", "_waiter", "attempt", "nonce")
    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.nonce = b""
        self._received = bytearray()
        self._end: Exception | None = None
        """Why nothing more arrives."""
        self.attempt: NotesChange | None = None
        """Told, instead of `read`, when something has arrived or the connection has ended."""
        self._is_asked = False
        self._waiter: asyncio.Future[None] | None = None

    # --- Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's TLS has a class of its own

    def data_received(self, chunk: bytes) -> None:
        """Keep the bytes. After an answer, the rest is for the protocol that comes next."""
        self._received += chunk
        if self.attempt is not None:
            self.attempt.note_change()
            return
        if self._is_asked or len(self._received) > MAX_UNREAD:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """End the connection."""
        self._end = EOFError()
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        if self._end is None:
            self._end = exc or EOFError()
        self._wake()

    def time_out(self) -> None:
        """End the wait for bytes that do not arrive."""
        self._end = TimeoutError()
        self._wake()

    def _wake(self) -> None:
        if self.attempt is not None:
            self.attempt.note_change()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- For the client

    def is_usable(self) -> bool:
        """Return whether the listener has sent nothing more, and has not ended it."""
        return not self._received and self._end is None

    def send(self, preamble: bytes) -> None:
        """Send a preamble: what the kernel does not take is sent later. Raises OSError."""
        if self._end is not None:
            raise ConnectionResetError
        self._is_asked = True
        self._transport.write(preamble)

    # --- Without waiting

    @property
    def has_ended(self) -> bool:
        """Whether nothing more arrives."""
        return self._end is not None

    def take_greeting(self) -> bool:
        """Read the greeting; False if it is not complete, or not one."""
        if len(self._received) != GREETING_SIZE:
            return False
        with suppress(PreambleError):
            self.nonce = parse_greeting(bytes(self._received))
            self._received.clear()
        return bool(self.nonce)

    def take_if(self, answer: int) -> bool:
        """Read one byte if it is this answer."""
        if self._received[0] != answer:
            return False
        del self._received[0]
        self.attempt = None
        return True

    def wait_from_now(self) -> None:
        """Let `read` wait for what comes next."""
        self.attempt = None
        if self._is_asked and self._received:
            self._transport.pause_reading()

    # --- With waiting

    async def read(self, size: int) -> bytes:
        """Read so many bytes. Raises OSError or EOFError."""
        while len(self._received) < size:
            if self._end is not None:
                raise self._end
            with suppress(RuntimeError):  # asyncio raises it when the connection is lost
                self._transport.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def detach(self) -> Stream:
        """Return the stream of what comes after what was read. Raises OSError if the connection is lost."""
        raise NotImplementedError

    def set_patience(self, seconds: float) -> None:
        """End the connection if the other end does not acknowledge what was sent for so long."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            set_user_timeout(sock, seconds)

    def close(self) -> None:
        """Abort the connection. Calls may repeat."""
        self._transport.abort()


class PlainChannel(Channel):
    """A connection without TLS."""

    __slots__ = ()

    def detach(self) -> Stream:
        """Return the connection."""
        assert isinstance(self._transport, InnerTransport)
        if self._end is not None or self._transport.get_write_buffer_size():  # it cannot have read the preamble
            raise ConnectionResetError
        return Stream(self._transport, bytes(self._received))


class TlsChannel(Channel):
    """A connection with TLS."""

    __slots__ = ("_poller", "_streams")

    def __init__(self, poller: Poller, streams: MutableSet[SecuredStream]) -> None:
        """`streams`: gets the stream that `detach` makes, until it ends."""
        super().__init__()
        self._poller = poller
        self._streams = streams

    def detach(self) -> Stream:
        """Return one end of a socket pair, between whose other end and the connection bytes are copied."""
        ours, theirs = socket.socketpair()
        stream = SecuredStream(
            self._transport, ours.detach(), bytes(self._received), poller=self._poller, on_lost=self._streams.discard
        )
        self._streams.add(stream)
        return open_stream(theirs, poller=self._poller)


async def open_plain(address: str, poller: Poller) -> Channel:
    """Connect and receive the greeting. Raises OSError, EOFError or PreambleError."""
    error = OSError("it has no address")
    for family, where in await _find_addresses(address):
        try:
            return await _greet(start_plain(family, where, poller))
        except OSError as failure:
            error = failure
    raise error


def start_plain(family: int, where: Address, poller: Poller) -> PlainChannel:
    """Begin to connect to one address. Raises OSError."""
    channel = PlainChannel()
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        keep_alive(sock)
        if (failed := sock.connect_ex(where)) not in {0, errno.EINPROGRESS}:
            raise OSError(failed, os.strerror(failed))
        InnerTransport(sock, channel, poller=poller)  # which reads the error if connecting fails later
    except BaseException:
        sock.close()
        raise
    return channel


async def greet(channel: Channel, deadlines: Deadlines[Channel]) -> Channel:
    """Receive the greeting in time. Raises OSError, EOFError or PreambleError."""
    deadlines.start(channel)
    try:
        return await _greet(channel)
    finally:
        deadlines.stop(channel)


async def open_tls(address: str, tls: ssl.SSLContext, poller: Poller, streams: MutableSet[SecuredStream]) -> Channel:
    """Connect, perform the TLS handshake, and receive the greeting. Raises OSError, EOFError or PreambleError."""
    sock = await _connect(address)
    channel = TlsChannel(poller, streams)
    await poller.loop.create_connection(lambda: channel, sock=sock, ssl=tls, server_hostname="")  # closes it if this fails
    return await _greet(channel)


async def _greet(channel: Channel) -> Channel:
    """Receive the greeting."""
    try:
        channel.nonce = parse_greeting(await channel.read(GREETING_SIZE))
    except BaseException:
        channel.close()
        raise
    return channel


async def _find_addresses(address: str) -> Sequence[tuple[int, Address]]:
    """Return the families and addresses of `host:port`, with the host in brackets for IPv6. Raises OSError."""
    if (numeric := parse_numeric(address)) is not None:
        return (numeric,)
    host, port = _split(address)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]


async def _connect(address: str) -> socket.socket:
    """Connect to `host:port`. Raises OSError."""
    error = OSError("it has no address")
    for family, where in await _find_addresses(address):
        try:
            return await _connect_to(family, where)
        except OSError as failed:
            error = failed
    raise error


@lru_cache(maxsize=256)
def parse_numeric(address: str) -> tuple[int, Address] | None:
    """Return the family and the address of a `host:port`; None if the host is a name, for which the resolver has to be asked."""
    host, port = _split(address)
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, host)
            return family, (host, port)
    return None


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _connect_to(family: int, where: Address) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.setblocking(False)
        keep_alive(sock)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock
