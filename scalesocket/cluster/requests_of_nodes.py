"""What nodes ask each other, besides handing clients over: a request and its answer, as MessagePack."""

from typing import Final

import msgspec

from scalesocket.control.messages import Request


class ClaimRoom(msgspec.Struct, frozen=True, tag="claim"):
    """Claim a room, because the sender has found this node the less busy one; the answer is a Claimed."""

    app: str
    room: str


class Claimed(msgspec.Struct, frozen=True):
    """Who owns it now."""

    address: str
    """Empty: no owner, for now."""
    fence: int = 0


class Operate(msgspec.Struct, frozen=True, tag="operate"):
    """Carry out an operation on the rooms of this node; the answer is a `workers.site_messages.Ran`."""

    request: Request
    asked_by: str
    """Who asks, for the log."""


class AwaitEnd(msgspec.Struct, frozen=True, tag="await"):
    """Wait at most so many seconds for the end of rooms; the answer is an Outcome."""

    held: int
    seconds: float


class LetGo(msgspec.Struct, frozen=True, tag="let go"):
    """Wait for rooms no more; the answer is empty."""

    held: int


NodeRequest = ClaimRoom | Operate | AwaitEnd | LetGo
encode: Final = msgspec.msgpack.Encoder().encode
decode_request: Final = msgspec.msgpack.Decoder(NodeRequest).decode
"""Raises msgspec.DecodeError."""
decode_claimed: Final = msgspec.msgpack.Decoder(Claimed).decode
"""Raises msgspec.DecodeError."""
