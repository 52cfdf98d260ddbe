"""IP addresses: parsing, loopback, and the blocks that count as one client."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address and ignore its zone; None if invalid. IPv4 mapped to IPv6, as on a listener at [::], becomes IPv4."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=512)
def is_loopback(text: str) -> bool:
    """Return whether an address is a loopback address: 127.0.0.0/8 or ::1."""
    address = parse_address(text)
    return address is not None and address.is_loopback


def block_of(text: str) -> str:
    """Return the block that counts as one client: an IPv4 address, mapped to IPv6 or not, or the /64 of an IPv6 address.

    An IPv6 customer has at least a /64, and so 2^64 addresses (RFC 6177 2).
    """
    return _block_of(text) if ":" in text else text


@lru_cache(maxsize=4096)
def _block_of(text: str) -> str:
    address = parse_address(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return text if address is None else str(address)
