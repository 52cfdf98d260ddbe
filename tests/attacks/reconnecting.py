"""Floods of upgrades: from one address, from all addresses of an IPv6 network, and with forged addresses."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from scalesocket.capacity.address_limits import AddressLimits
from scalesocket.config.model import ConnectRate, Server
from scalesocket.token_buckets import MAX_BLOCKS
from tests.attacks.tries import Try, ask, run
from tests.playing import Lane, open_playground, site_of
from tests.raw import upgrade

RATE: Final = {"per_ip": 0.001, "burst": 5}
FLOOD: Final = 40
"""Upgrades of one attack. 5 are accepted, and one more only if it takes a quarter of an hour."""
PROXIES: Final = ("127.0.0.0/8",)


async def attack() -> list[Try]:
    """Try both lanes, then the memory."""
    tries: list[Try] = []
    lanes: tuple[Lane, ...] = ("express", "general")
    for lane in lanes:
        tries += [
            await flood(lane, "one address", "5 in, 35 refused", lambda _: ()),
            await flood(lane, "forged addresses", "5 in, 35 refused", lambda number: (f"X-Forwarded-For: 192.0.2.{number}",)),
            await flood(lane, "a /64 behind a proxy", "5 in, 35 refused", customer, trusted=PROXIES),
            await flood(lane, "40 clients behind a proxy", "40 in, 0 refused", neighbours, trusted=PROXIES),
            await flood(lane, "unknown apps", "5 in, 35 refused", lambda _: (), path="/nowhere/one"),
        ]
    return [*tries, remember_all()]


def customer(number: int) -> tuple[str, ...]:
    """Another address of the same /64 each time, as a trusted proxy reports it."""
    return (f"X-Forwarded-For: 2001:db8::{number + 1:x}",)


def neighbours(number: int) -> tuple[str, ...]:
    """Another address each time."""
    return (f"X-Forwarded-For: 192.0.2.{number + 1}",)


async def flood(
    lane: Lane,
    name: str,
    expected: str,
    fields: Callable[[int], Sequence[str]],
    *,
    trusted: Sequence[str] = (),
    path: str = "/chat/one",
) -> Try:
    """Request many upgrades one after the other; count those that are not refused with 429."""
    server = Server.model_validate({"connect_rate": RATE, "trusted_proxies": trusted})
    async with open_playground(site_of({"chat": {"command": ["cat"]}}, server), lane) as site:
        statuses = Counter([await ask(site, upgrade(path, *fields(number))) for number in range(FLOOD)])
    return Try(f"{lane}: {name}", expected, f"{FLOOD - statuses['429']} in, {statuses['429']} refused")


def remember_all() -> Try:
    """Use more addresses than are remembered."""
    limits, rate = AddressLimits(), ConnectRate.model_validate(RATE)
    for number in range(MAX_BLOCKS * 2):
        limits.take_token((f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", 1), rate, time.monotonic())
    return Try(f"{MAX_BLOCKS * 2} networks", f"{MAX_BLOCKS} remembered", f"{len(limits._buckets)} remembered")


if __name__ == "__main__":
    sys.exit(run("Floods of upgrades", attack))
