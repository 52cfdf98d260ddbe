"""Hosts and ports as requests name them: the authority of a URL (RFC 3986 3.2) and the origin of a page (RFC 6454 7)."""

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple

MAX_AUTHORITY: Final = 272
"""Characters of an authority that are read: the longest DNS name (RFC 1035 2.3.4), its final dot, and a port."""
WEB_PORTS: Final = {"http": 80, "https": 443}
"""The schemes a page of the same site may have, and the ports their URLs leave out."""

# Labels have an underscore where containers are named that way. An escape or a delimiter, which RFC 3986 would allow in a
# name, stands in no name that DNS or a hosts file knows. A zone (RFC 6874) means something on the client's machine alone.
_LABEL: Final = "[A-Za-z0-9_~-]+"
_AUTHORITY: Final = re.compile(
    rf"(?:({_LABEL}(?:\.{_LABEL})*)\.?|\[([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9._~-]+)?\])(?::([0-9]{{0,5}}))?"
)


class Authority(NamedTuple):
    """A host and the port beside it."""

    host: str
    """A name in lower case without its final dot, or an address; IPv6 in its shortest form, without brackets and zone."""
    port: int | None
    """None where none is written."""

    def port_or(self, default: int) -> int:
        """The port, or that of the scheme."""
        return default if self.port is None else self.port


def parse_authority(text: str) -> Authority | None:
    """Read `host`, `host:port`, `[v6]` or `[v6]:port`; None for anything else, a user part and two hosts included."""
    return _parse(text) if len(text) <= MAX_AUTHORITY else None


@lru_cache(maxsize=512)  # most clients name the same few hosts
def _parse(text: str) -> Authority | None:
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    name, address, digits = match.groups()
    port = int(digits) if digits else None
    if port is not None and port > 65535:
        return None
    if name is not None:
        return Authority(name.lower(), port)
    try:
        return Authority(str(IPv6Address(address)), port)
    except ValueError:
        return None


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` came from `host`, the Host header of a request: by `http` or `https`, the port being equal.

    Either scheme will do, because a proxy may have ended TLS. The port that is left out is that of the origin's scheme.
    """
    scheme, _, rest = origin.partition("://")
    default = WEB_PORTS.get(scheme.lower())
    if default is None:
        return False
    page, server = parse_authority(rest), parse_authority(host)
    if page is None or server is None:
        return False
    return page.host == server.host and page.port_or(default) == server.port_or(default)
