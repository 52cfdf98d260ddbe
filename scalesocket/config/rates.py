"""Tables that limit a rate: messages of a client, and upgrades of an address."""

from typing import Annotated

from pydantic import model_validator

from scalesocket.config.keys import Table, live_key
from scalesocket.config.units import PositiveSize
from scalesocket.config.values import Amount, Count


class Rate(Table):
    """How much one client may send per second before it is slowed down."""

    messages: Annotated[Amount | None, live_key("Messages per second")] = None
    bytes: Annotated[PositiveSize | None, live_key("Payload bytes per second")] = None
    burst: Annotated[Count | None, live_key("Messages at once before the rate applies", default="those of one second")] = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> "Rate":
        if self.messages is None and self.bytes is None:
            raise ValueError("limits nothing (set messages, bytes, or both)")
        return self


class ConnectRate(Table):
    """How many upgrades per second one address may request."""

    per_ip: Annotated[Amount, live_key("Upgrades per second from one address. IPv6 addresses count by their /64 network")]
    burst: Annotated[Count | None, live_key("Upgrades at once before the rate applies", default="those of one second")] = None

    @property
    def size(self) -> float:
        """Upgrades at once, at least one."""
        return float(self.burst or max(1.0, self.per_ip))
