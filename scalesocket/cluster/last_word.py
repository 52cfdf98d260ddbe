"""The last message to the engine for a node that has died: its session has ended, and its rooms are free.

It is plain bytes for a plain socket, so that a process without redis-py can send it, when it has killed all programs of the node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import SSLConnection, parse_url

from scalesocket.cluster.link import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWord:
    """The address and the bytes; the answer need not be read."""

    address: tuple[str, int] | str
    """Host and port, or the path of a unix socket."""
    is_tls: bool
    ca: str | None
    """The file of the authorities that sign the engine's certificate; None: those of the system."""
    payload: bytes = field(repr=False)
    """Commands of RESP, one after the other, with the password of the engine."""


def make_last_word(url: str, *command: Word) -> LastWord:
    """Make the bytes that log in to the engine at `url` and send `command`."""
    settings: dict[str, Any] = dict(parse_url(url))
    commands: list[Sequence[Word]] = [command]
    if settings.get("db"):
        commands.insert(0, ("SELECT", settings["db"]))
    if settings.get("password"):
        user = (settings["username"],) if settings.get("username") else ()
        commands.insert(0, ("AUTH", *user, settings["password"]))
    address = settings.get("path") or (settings.get("host", "localhost"), settings.get("port", 6379))
    return LastWord(
        address=address,
        is_tls=settings.get("connection_class") is SSLConnection,
        ca=settings.get("ssl_ca_certs"),
        payload=b"".join(map(_pack, commands)),
    )


def _pack(words: Sequence[Word]) -> bytes:
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)
