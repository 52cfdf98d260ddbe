"""The payload of a hand-over: the facts of a client's connection, and the fence under which its room is owned."""

from typing import Final

import msgspec

from scalesocket.placement.facts import Facts, Kind


class Handed(msgspec.Struct, frozen=True, array_like=True):
    """A client's connection, for the node that owns its room."""

    facts: Facts
    fence: int
    """Of the claim that the sender knows. The owner answers NOT_HERE if it has another one."""


encode_handed: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Handed).decode


def decode_handed(payload: bytes) -> Handed | None:
    """Decode the payload of a hand-over; None if it is invalid.

    The generation of the sender's site is removed: nodes count them each by itself, and the settings of the owner hold.
    """
    try:
        handed = _decode(payload)
    except msgspec.DecodeError:
        return None
    if handed.facts.kind is Kind.SOCKET:
        return None
    return Handed(msgspec.structs.replace(handed.facts, generation=0), handed.fence)
