"""What travels with a connection that is handed over: the facts on which its upgrade was admitted."""

from enum import StrEnum
from typing import Final, Self

import msgspec

from scalesocket.admission.control import Admission
from scalesocket.auth.hook import HookIdentity, Question
from scalesocket.auth.identity import Identity, Role
from scalesocket.wire.handshake import Request

_SURROGATES: Final = "surrogatepass"  # JSON of a credential may have half surrogate pairs


class Kind(StrEnum):
    """What the descriptor beside the facts is."""

    SOCKET = "socket"
    """The client's own connection."""
    PAIR = "pair"
    """One end of a socket pair. The sender copies bytes between the other end and the client."""
    RELAY = "relay"
    """One end of a socket pair on which RFC 6455 begins at once, without an upgrade. The sender has answered the client."""


class Who(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An identity. Its texts are UTF-8, and may have half surrogate pairs."""

    user: bytes | None
    method: str
    rooms: tuple[bytes, ...] | None
    roles: tuple[Role, ...]
    info: bytes
    expires_at: float | None
    question: Question | None
    """The question that a hook is asked again, if it let the client in."""

    @classmethod
    def of(cls, identity: Identity) -> Self:
        """Describe an identity."""
        return cls(
            user=None if identity.user is None else _encode(identity.user),
            method=identity.method,
            rooms=None if identity.rooms is None else tuple(map(_encode, identity.rooms)),
            roles=tuple(identity.roles),
            info=_encode(identity.info),
            expires_at=identity.expires_at,
            question=identity.question if isinstance(identity, HookIdentity) else None,
        )

    def identity(self) -> Identity:
        """Return the identity."""
        known = Identity(
            user=None if self.user is None else _decode(self.user),
            method=self.method,
            rooms=None if self.rooms is None else tuple(map(_decode, self.rooms)),
            roles=frozenset(self.roles),
            info=_decode(self.info),
            expires_at=self.expires_at,
        )
        if self.question is None:
            return known
        return HookIdentity(
            user=known.user,
            method=known.method,
            rooms=known.rooms,
            roles=known.roles,
            info=known.info,
            expires_at=known.expires_at,
            question=self.question,
        )


class Facts(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="facts"):
    """An admitted upgrade, for the owner of its room."""

    kind: Kind
    app: str
    room: str
    generation: int
    """Of the site by which it was admitted. An owner with an older site waits until it has this one."""
    request: Request
    """Without credentials; with the client's address and scheme, where trusted proxies report them."""
    key: str = ""
    """`Sec-WebSocket-Key`; empty if the sender has answered."""
    subprotocol: str | None = None
    who: Who | None = None
    """None in an app without `auth`."""
    rest: bytes = b""
    """The bytes that were read after the request head: the client's first messages. Only with SOCKET."""
    window: int | None = None
    """With SOCKET: the sender has answered 101, and agreed on permessage-deflate with a window of so many bits, or 0 for none.
    None: the owner answers."""

    @classmethod
    def of(
        cls,
        admission: Admission,
        kind: Kind,
        *,
        generation: int,
        key: str = "",
        rest: bytes = b"",
        window: int | None = None,
    ) -> Self:
        """Describe an admitted upgrade."""
        return cls(
            kind=kind,
            app=admission.app.name,
            room=admission.room,
            generation=generation,
            request=admission.request,
            key=key,
            subprotocol=admission.subprotocol,
            who=None if admission.identity is None else Who.of(admission.identity),
            rest=rest,
            window=window,
        )


class Delivery(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="delivery"):
    """A descriptor that the supervisor sends to a worker, such as a listening socket."""

    name: str
    """What it is, as supervisor and worker agree."""
    details: bytes = b""


Message = Facts | Delivery

encode_message: Final = msgspec.msgpack.Encoder().encode
decode_messages: Final = msgspec.msgpack.Decoder(list[Message]).decode
"""Decode the messages that were sent together. Raises msgspec.DecodeError."""


def _encode(text: str) -> bytes:
    return text.encode(errors=_SURROGATES)


def _decode(text: bytes) -> str:
    return text.decode(errors=_SURROGATES)
