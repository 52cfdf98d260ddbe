"""What IP addresses mean."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address


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
