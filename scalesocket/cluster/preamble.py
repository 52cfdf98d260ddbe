"""What two nodes send each other before a connection carries a client's bytes, or a request. Pure: no input and output.

    listener    greeting: magic, version, nonce
    caller      head: version, kind, size and SHA-256 of the payload, HMAC-SHA256 of all that and the nonce; then the payload
    listener    one byte, an `Answer`
    then        the bytes of the client, both ways; or, for a request, the size and the bytes of the response;
                or, for a stream, the size and the bytes of block after block, until an empty one; and single
                bytes of the caller, its heartbeats

The nonce is new for each connection, so a recorded preamble cannot be replayed. The head is signed apart from the payload, so
nothing is kept for a caller that does not know the secret.
"""

import hmac
import struct
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple

from scalesocket.config.units import KiB, MiB

MAGIC: Final = b"ssp"
VERSION: Final = 1
"""Of this protocol. A caller with a higher one than the listener ends the connection, and one with a lower one gets TOO_OLD.

It stays while payloads can be read by both: `Facts` and `Handed` may get fields with defaults at their end, which older nodes
ignore; `Request` may not.
"""
NONCE_SIZE: Final = 16
GREETING_SIZE: Final = len(MAGIC) + 1 + NONCE_SIZE

_PURPOSE: Final = b"scalesocket peer\0"
_FIELDS: Final = struct.Struct("!BBI32s")
_MAC_SIZE: Final = 32
HEAD_SIZE: Final = _FIELDS.size + _MAC_SIZE
RESPONSE_HEAD: Final = struct.Struct("!I")


class Kind(IntEnum):
    """What a connection is for."""

    HAND_OVER = 1
    """A client's connection; the payload is `Handed`."""
    REQUEST = 2
    """A request of an operator, whose bytes are the payload."""
    STREAM = 3
    """A request whose response goes on."""


MAX_PAYLOAD: Final = {Kind.HAND_OVER: 256 * KiB, Kind.REQUEST: 1 * MiB, Kind.STREAM: 64 * KiB}
"""Bytes. The longest request head has 32 KiB, and each of its characters may take 5 bytes."""
MAX_RESPONSE: Final = 32 * MiB
"""Bytes of the response to a request."""
MAX_BLOCK: Final = 4 * MiB
"""Bytes of one block of a stream."""
END_OF_STREAM: Final = RESPONSE_HEAD.pack(0)


class Answer(IntEnum):
    """What the listener does with a connection."""

    UNREACHABLE = 0
    """Not sent: there is no listener, or it did not answer in time."""
    TAKEN = 1
    NOT_HERE = 2
    """The room has another owner by now: ask the directory again."""
    DRAINING = 3
    """The node takes no more clients."""
    WRONG_SIGNATURE = 4
    TOO_OLD = 5
    """The caller's version of the protocol."""
    TOO_LONG = 6
    INVALID = 7
    """The payload is not what the kind says."""
    BUSY = 8
    """The node cannot take a connection at the moment."""


class Head(NamedTuple):
    """The head of a preamble."""

    version: int
    kind: int
    size: int
    digest: bytes
    mac: bytes

    def is_signed(self, secret: bytes, nonce: bytes) -> bool:
        """Return whether the sender knows the secret. Takes the same time for every signature."""
        return hmac.compare_digest(self.mac, _sign(secret, nonce, _FIELDS.pack(*self[:4])))

    def is_of(self, payload: bytes) -> bool:
        """Return whether this is the payload that was signed."""
        return hmac.compare_digest(self.digest, sha256(payload).digest())


class PreambleError(Exception):
    """The other end does not speak this protocol."""


def encode_greeting(nonce: bytes) -> bytes:
    """Encode the greeting."""
    return MAGIC + bytes((VERSION,)) + nonce


def parse_greeting(greeting: bytes) -> bytes:
    """Return the nonce of a greeting. Raises PreambleError."""
    if len(greeting) != GREETING_SIZE or not greeting.startswith(MAGIC):
        raise PreambleError("it is not a node of a cluster")
    if greeting[len(MAGIC)] < VERSION:
        raise PreambleError(f"it has version {greeting[len(MAGIC)]} of the protocol between nodes, this node {VERSION}")
    return greeting[len(MAGIC) + 1 :]


def encode_preamble(secret: bytes, nonce: bytes, kind: Kind, payload: bytes) -> bytes:
    """Encode and sign a preamble."""
    fields = _FIELDS.pack(VERSION, kind, len(payload), sha256(payload).digest())
    return fields + _sign(secret, nonce, fields) + payload


def parse_head(head: bytes) -> Head:
    """Parse a head of HEAD_SIZE bytes."""
    version, kind, size, digest = _FIELDS.unpack_from(head)
    return Head(version, kind, size, digest, head[_FIELDS.size : HEAD_SIZE])


def check_head(head: Head, secret: bytes, nonce: bytes) -> Answer | None:
    """Return why a connection is refused, or None: then the payload follows."""
    if not head.is_signed(secret, nonce):
        return Answer.WRONG_SIGNATURE
    if head.version < VERSION:
        return Answer.TOO_OLD
    if head.version > VERSION or head.kind not in Kind.__members__.values():
        return Answer.INVALID
    return Answer.TOO_LONG if head.size > MAX_PAYLOAD[Kind(head.kind)] else None


def _sign(secret: bytes, nonce: bytes, fields: bytes) -> bytes:
    return hmac.digest(secret, _PURPOSE + nonce + fields, "sha256")
