"""What is sent to the engine of a cluster when the gateway has died and all backends are killed: its rooms are free."""

import mmap
import socket
from contextlib import suppress
from typing import Any, Final

from scalesocket.backends.spawner.protocol import decode, encode

MAX_WORD: Final = 1 << 16
"""Bytes of a last word, with its address."""
TIMEOUT: Final = 0.5
"""Seconds for each step; if it fails, other nodes wait for the end of the lease."""


class SharedLastWord:
    """Arguments of `send_last_word`, in memory that the spawner shares with the guardian. Only the spawner writes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4 + MAX_WORD)

    def set(self, word: dict[str, Any] | None) -> None:
        """Replace them; None by none. A word that is too long is not kept."""
        self._set_size(0)  # a spawner that is killed meanwhile leaves none
        text = b"" if word is None else encode(word)
        if len(text) <= MAX_WORD:
            self._memory[4 : 4 + len(text)] = text
            self._set_size(len(text))

    def get(self) -> dict[str, Any] | None:
        """Return them; None if there are none."""
        size = int.from_bytes(self._memory[:4], "little")
        word: dict[str, Any] | None = decode(self._memory[4 : 4 + size]) if size else None
        return word

    def _set_size(self, size: int) -> None:
        self._memory[:4] = size.to_bytes(4, "little")


def send_last_word(address: tuple[str, int] | str, payload: bytes, *, is_tls: bool, ca: str | None) -> None:
    """Send bytes to a server, and wait until it has read them all, and closed the connection.

    `address`: host and port, or the path of a unix socket. `ca`: the authorities that sign the server's certificate.
    """
    with suppress(OSError), connect(address) as sock:
        if is_tls:
            import ssl  # takes 10 ms and some MiB, which no other spawner needs

            host = address[0] if isinstance(address, tuple) else None
            with ssl.create_default_context(cafile=ca).wrap_socket(sock, server_hostname=host) as secured:
                exchange(secured, payload)
        else:
            exchange(sock, payload)


def connect(address: tuple[str, int] | str) -> socket.socket:
    """Connect, with a timeout for each later step, too. Raises OSError."""
    if isinstance(address, tuple):
        return socket.create_connection(address, TIMEOUT)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def exchange(sock: Any, payload: bytes) -> None:
    """Send all, and read until the server closes: what it has not read is discarded if the connection is reset."""
    sock.sendall(payload)
    if type(sock) is socket.socket:
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass
    else:
        sock.recv(1 << 16)  # TLS: the first answer; closing tells the server that no more follows
        sock.unwrap()
