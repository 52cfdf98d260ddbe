"""The payload of a hand-over: the facts of a client's connection, and the fence under which its room is owned."""

import time
from typing import Final, Self

import msgspec
from msgspec.structs import replace

from scalesocket.placement.facts import Facts, Kind


class Handed(msgspec.Struct, frozen=True, array_like=True):
    """A client's connection, for the node that owns its room."""

    facts: Facts
    fence: int
    """Of the claim that the sender knows. The owner answers NOT_HERE if it has another one."""
    sent_at: float = 0.0
    """By the clock of the sender, in seconds since 1970. Credentials expire by that clock; 0: by the owner's."""

    @classmethod
    def now(cls, facts: Facts, fence: int) -> Self:
        """Return a client's connection that is sent now."""
        return cls(facts, fence, time.time())


encode_handed: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Handed).decode


def decode_handed(payload: bytes) -> Handed | None:
    """Decode the payload of a hand-over; None if it is invalid.

    The generation of the sender's site is removed: nodes count them each by itself, and the settings of the owner hold. The time
    at which a credential expires becomes one by the clock of this node.
    """
    try:
        handed = _decode(payload)
    except msgspec.DecodeError:
        return None
    if handed.facts.kind is Kind.SOCKET:
        return None
    who = handed.facts.who
    if who is not None and who.expires_at is not None and handed.sent_at:
        who = replace(who, expires_at=who.expires_at + time.time() - handed.sent_at)
    return Handed(replace(handed.facts, generation=0, who=who), handed.fence)
