"""Tables that limit a rate: messages of a client, upgrades of an address, and new rooms."""

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


class RoomRate(Table):
    """How many rooms of an app may be opened per second."""

    per_ip: Annotated[
        Amount | None, live_key("Rooms per second that clients of one address open. IPv6 addresses count by their /64 network")
    ] = None
    total: Annotated[Amount | None, live_key("Rooms per second that all clients together open")] = None
    burst: Annotated[
        Count | None,
        live_key("Rooms at once before a rate applies", default="those of one second, which `total` always allows at once"),
    ] = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> "RoomRate":
        if self.per_ip is None and self.total is None:
            raise ValueError("limits nothing (set per_ip, total, or both)")
        return self

    @property
    def size_per_ip(self) -> float:
        """Rooms that one address opens at once, at least one."""
        return float(self.burst or max(1.0, self.per_ip or 0.0))

    @property
    def size_total(self) -> float:
        """Rooms that all clients open at once: `burst`, and at least those of one second."""
        return max(1.0, self.burst or 0.0, self.total or 0.0)
