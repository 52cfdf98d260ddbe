"""What IP addresses mean."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address without its zone; None for what is none. IPv4 mapped into IPv6, as a listener at [::] has it, is IPv4."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=512)
def is_loopback(text: str) -> bool:
    """Whether an address is one of this machine's loopback: 127.0.0.0/8 or ::1."""
    address = parse_address(text)
    return address is not None and address.is_loopback


def block_of(text: str) -> str:
    """The block of addresses that counts as one client: an IPv4 address, mapped into IPv6 or not, or the /64 of an IPv6 one.

    A customer of IPv6 has at least a /64, and so 2^64 addresses to come from (RFC 6177 2).
    """
    return _block_of(text) if ":" in text else text


@lru_cache(maxsize=4096)
def _block_of(text: str) -> str:
    address = parse_address(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return text if address is None else str(address)
