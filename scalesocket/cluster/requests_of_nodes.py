"""What nodes ask each other, besides handing clients over: a request and its answer, as MessagePack."""

from typing import Final

import msgspec


class ClaimRoom(msgspec.Struct, frozen=True, tag="claim"):
    """Claim a room, because the sender has found this node the less busy one."""

    app: str
    room: str


class Claimed(msgspec.Struct, frozen=True, tag="claimed"):
    """Who owns it now."""

    address: str
    """Empty: nobody, for now."""
    fence: int = 0


NodeRequest = ClaimRoom
encode: Final = msgspec.msgpack.Encoder().encode
decode_request: Final = msgspec.msgpack.Decoder(NodeRequest).decode
"""Raises msgspec.DecodeError."""
decode_claimed: Final = msgspec.msgpack.Decoder(Claimed).decode
"""Raises msgspec.DecodeError."""
