"""The exception tree, and the table of close codes and reasons.

An error affects only its cause: an error of a client closes that client, one of a backend ends its room, one in the site file
leaves the running site unchanged, and a bug is a traceback in the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAX_REASON: Final = 123
"""Bytes of UTF-8 in the reason of a close frame (RFC 6455 5.5: 125 without the code)."""


class CloseCode(IntEnum):
    """Close codes of websockets (RFC 6455 7.4.1 and the IANA registry)."""

    NORMAL = 1000
    """The backend ended with exit status 0, or the room reached its `max_lifetime`."""
    GOING_AWAY = 1001
    """The server is shutting down, or the app was removed."""
    PROTOCOL_ERROR = 1002
    """The client violated RFC 6455."""
    INVALID_DATA = 1007
    """The client sent text that is not UTF-8."""
    POLICY = 1008
    """The client was idle too long, or did not answer a ping."""
    TOO_BIG = 1009
    """The client sent a message longer than `max_message`."""
    BACKEND_FAILED = 1011
    """The backend failed to start or crashed; the reason says how."""
    RESTARTED = 1012
    """The room was restarted by an operator or by a reload that asked for it, its worker is replaced, or its node stops or lost
    the lease of it."""
    TRY_LATER = 1013
    """The client is too slow, the room, the app or the server is full or busy, or too many rooms are opened."""
    NOT_AUTHENTICATED = 4401
    """The client has no valid credential, or its credential has expired."""
    NOT_ALLOWED = 4403
    """The client's credential is not for this room, or an operator kicked the client."""


@dataclass(frozen=True, slots=True)
class Close:
    """How a websocket is closed: a code, and a reason for people, which is cut to 123 bytes of UTF-8."""

    code: int
    reason: str = ""

    def payload(self) -> bytes:
        """Return the payload of the close frame (RFC 6455 5.5.1). Half surrogate pairs, which JSON may have, become `?`."""
        reason = self.reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore").encode()
        return self.code.to_bytes(2, "big") + reason


SHUTTING_DOWN: Final = Close(CloseCode.GOING_AWAY, "the server is shutting down")
APP_REMOVED: Final = Close(CloseCode.GOING_AWAY, "the app was removed")
BACKEND_ENDED: Final = Close(CloseCode.NORMAL, "the program ended")
LIFETIME_REACHED: Final = Close(CloseCode.NORMAL, "the room reached its max_lifetime")
CLIENT_IDLE: Final = Close(CloseCode.POLICY, "nothing was sent for client_idle_timeout")
PONG_MISSING: Final = Close(CloseCode.POLICY, "a ping was not answered within ping_timeout")
BACKEND_BEHIND: Final = Close(CloseCode.TRY_LATER, "the backend is far behind with its input")
BACKEND_STALLED: Final = Close(CloseCode.BACKEND_FAILED, "the backend does not read")
RECORD_TOO_LONG: Final = Close(CloseCode.BACKEND_FAILED, "the backend sent a record longer than max_record")
WORKER_REPLACED: Final = Close(CloseCode.RESTARTED, "this worker of the server is replaced: connect again")
LEASE_LOST: Final = Close(CloseCode.RESTARTED, "the server has lost its lease of the room: connect again")
NODE_STOPS: Final = Close(CloseCode.RESTARTED, "this node stops: connect again, and another one takes the room")
NODE_DRAINED: Final = Close(CloseCode.RESTARTED, "this node is drained: connect again, and another one takes the room")
ROOM_RESTARTED: Final = Close(CloseCode.RESTARTED, "the room was restarted")
TOO_SLOW: Final = Close(CloseCode.TRY_LATER, "too slow: more than send_buffer was left unread")
ROOM_FULL: Final = Close(CloseCode.TRY_LATER, "the room is full")
ADDRESS_FULL: Final = Close(CloseCode.TRY_LATER, "too many connections from this address")
ROOM_STOPPED: Final = Close(CloseCode.GOING_AWAY, "the room was stopped")
APP_DRAINED: Final = Close(CloseCode.GOING_AWAY, "the app takes no clients for now")
APP_CLOSED: Final = Close(CloseCode.TRY_LATER, "the app takes no clients for now")
APP_FULL: Final = Close(CloseCode.TRY_LATER, "the app is full")
SERVER_FULL: Final = Close(CloseCode.TRY_LATER, "the server is full")
TOO_MANY_ROOMS: Final = Close(CloseCode.TRY_LATER, "the app has no place for another room")
ROOMS_TOO_FAST: Final = Close(CloseCode.TRY_LATER, "too many rooms are opened per second: try again later")
SERVER_BUSY: Final = Close(CloseCode.TRY_LATER, "the server is busy: try again later")
INTERNAL_ERROR: Final = Close(CloseCode.BACKEND_FAILED, "internal error")
ONESHOT_TAKEN: Final = Close(CloseCode.TRY_LATER, "the room takes one client, once")
BINARY_NOT_UTF8: Final = Close(CloseCode.INVALID_DATA, "a binary message is not UTF-8, and this app takes text")
NOT_AUTHENTICATED: Final = Close(CloseCode.NOT_AUTHENTICATED, "no valid credential")
CREDENTIAL_EXPIRED: Final = Close(CloseCode.NOT_AUTHENTICATED, "the credential has expired")
NOT_ALLOWED_HERE: Final = Close(CloseCode.NOT_ALLOWED, "not allowed here")
MAY_NOT_CREATE: Final = Close(CloseCode.NOT_ALLOWED, "the room does not exist, and you may not open it")
TOO_MANY_FAILURES: Final = Close(CloseCode.TRY_LATER, "too many failed attempts from this address")
UNAVAILABLE: Final = Close(CloseCode.TRY_LATER, "the credential cannot be verified at the moment")

PEER_FAULTS: Final = frozenset({CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.TOO_BIG})
"""Codes for violations of the protocol, after which the connection is closed without waiting for the peer's close frame."""


def message_too_big(limit: int) -> Close:
    """Return the close for a message longer than `limit`, the `max_message` in bytes."""
    return Close(CloseCode.TOO_BIG, f"the message is longer than max_message ({limit} bytes)")


class ScalesocketError(Exception):
    """The base of all errors that this package raises. Texts read `where: what (hint)`, in lower case, without a full stop."""


class BackendError(ScalesocketError):
    """A backend could not be started or connected, or its output is invalid. The text becomes the close reason with 1011."""


class SpawnerError(BackendError):
    """The spawner process could not be started, or did not answer in time."""


class RecordTooLong(BackendError):
    """The backend sent a record or payload longer than `max_record`."""

    def __init__(self, records: Sequence[bytes]) -> None:
        """Carry the records that were complete before it."""
        super().__init__(RECORD_TOO_LONG.reason)
        self.records = records


class RoutingError(BackendError):
    """The backend sent an invalid gwsocket header, so the start of the next one is unknown."""
