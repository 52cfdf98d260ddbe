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


class DrainNode(msgspec.Struct, frozen=True, tag="drain"):
    """Drain the node with this session; the answer is a `workers.site_messages.Ran` with an Outcome."""

    node: str
    inc: str
    asked_by: str


class AwaitEnd(msgspec.Struct, frozen=True, tag="await"):
    """Wait at most so many seconds for the end of rooms; the answer is an Outcome."""

    held: int
    seconds: float


class Identify(msgspec.Struct, frozen=True, tag="identify"):
    """The answer is an Identity."""


class Identity(msgspec.Struct, frozen=True):
    """Which process answers at an address."""

    node: str
    inc: str
    """Of its last session; empty before the first."""
    is_stopping: bool
    """Whether it takes no more rooms: it drains, or shuts down."""


class ReleaseHeld(msgspec.Struct, frozen=True, tag="release held"):
    """Wait for rooms no more; the answer is empty."""

    held: int


NodeRequest = ClaimRoom | Operate | DrainNode | AwaitEnd | ReleaseHeld | Identify
encode: Final = msgspec.msgpack.Encoder().encode
decode_request: Final = msgspec.msgpack.Decoder(NodeRequest).decode
"""Raises msgspec.DecodeError."""
decode_claimed: Final = msgspec.msgpack.Decoder(Claimed).decode
"""Raises msgspec.DecodeError."""
