"""TLS between nodes: both sides show a certificate, and the ends of a connection pass one by one, as without TLS.

asyncio's TLS has no half-closed connections, which the owner of a room needs to send a close frame to a client whose node stops.
Therefore the bytes travel in blocks: four bytes with the size, and the bytes; an empty block is the end of one direction.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from scalesocket.config.certificates import load_authorities, load_pair, read_pair
from scalesocket.config.model import Tls
from scalesocket.config.units import KiB
from scalesocket.config.validity import Validity
from scalesocket.io.poller import Poller
from scalesocket.io.transport import SocketTransport

BUFFER: Final = 64 * KiB
"""Bytes that wait in one direction, besides those of the kernel, above which nothing more is read."""
_END: Final = bytes(4)


class Contexts(NamedTuple):
    """The TLS settings of both ends of connections between nodes."""

    listener: ssl.SSLContext
    caller: ssl.SSLContext
    validity: Validity | None
    """When the certificate is valid; None if only OpenSSL can read it."""


def make_contexts(certificate: Path, key: Path, ca: Path) -> Contexts:
    """Load the certificate of a node. Raises CertificateError.

    Each end accepts the certificates that `ca` signed, whatever their names: nodes may be reached by numbers that no certificate
    has.
    """
    files = Tls(certificate=certificate, key=key)
    pair = read_pair(files)  # once, so that both ends have the same
    listener, caller, validity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), None
    for context in listener, caller:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        validity = load_pair(context, files, pair)
        load_authorities(context, ca)
    return Contexts(listener, caller, validity)


class SecuredStream:
    """Copies bytes between a TLS connection and one end of a socket pair, with backpressure in both directions."""

    def __init__(
        self, tls: asyncio.Transport, inner: int, early: bytes, *, poller: Poller, on_lost: Callable[["SecuredStream"], None]
    ) -> None:
        """Take over `tls` and the descriptor `inner`. `early`: blocks that were read already.

        `on_lost` is called when both are closed.
        """
        self._on_lost = on_lost
        self._open = 2
        self._directions = 2
        """Directions that have not ended."""
        self._outer = tls
        self._outer_side = _Outer(self)
        self._inner = SocketTransport(inner, None, _Inner(self), poller=poller)
        tls.set_write_buffer_limits(high=BUFFER)
        tls.set_protocol(self._outer_side)
        tls.resume_reading()
        if early:
            self._outer_side.data_received(early)

    def cut(self) -> None:
        """Abort both connections. Calls may repeat."""
        self._outer.abort()
        self._inner.abort()

    def _ended(self) -> None:
        """One direction has ended."""
        self._directions -= 1
        if not self._directions:
            self._inner.close()
            self._outer.close()

    def _lost(self) -> None:
        self._open -= 1
        if not self._open:
            self._on_lost(self)


class _Outer(asyncio.Protocol):
    """The TLS connection."""

    def __init__(self, stream: SecuredStream) -> None:
        self._stream = stream
        self._left = 0
        """Bytes that are left of the current block."""
        self._head = b""
        """The first bytes of the head of a block."""

    def data_received(self, chunk: bytes) -> None:
        inner, at = self._stream._inner, 0
        while at < len(chunk):
            if self._left:
                piece = chunk[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                if not inner.is_closing():
                    inner.write(piece)
                continue
            head = self._head + chunk[at : at + 4 - len(self._head)]
            at += len(head) - len(self._head)
            self._head = head
            if len(head) < 4:
                return
            self._head, self._left = b"", int.from_bytes(head, "big")
            if not self._left:
                inner.write_eof()
                self._stream._ended()

    def pause_writing(self) -> None:
        self._stream._inner.pause_reading()

    def resume_writing(self) -> None:
        self._stream._inner.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream._inner.close()
        self._stream._lost()


class _Inner(asyncio.Protocol):
    """Our end of the socket pair."""

    def __init__(self, stream: SecuredStream) -> None:
        self._stream = stream

    def data_received(self, chunk: bytes) -> None:
        self._stream._outer.write(len(chunk).to_bytes(4, "big") + chunk)

    def eof_received(self) -> bool:
        self._stream._outer.write(_END)
        self._stream._ended()
        return True

    def pause_writing(self) -> None:
        self._pause(is_paused=True)

    def resume_writing(self) -> None:
        self._pause(is_paused=False)

    def _pause(self, *, is_paused: bool) -> None:
        with suppress(RuntimeError):  # asyncio raises it when the connection is lost
            outer = self._stream._outer
            (outer.pause_reading if is_paused else outer.resume_reading)()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream._outer.close()
        self._stream._lost()
