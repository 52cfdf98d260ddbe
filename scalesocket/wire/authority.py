"""Hosts and ports in requests: the authority of a URL (RFC 3986 3.2) and the origin of a page (RFC 6454 7)."""

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple

MAX_AUTHORITY: Final = 272
"""Characters of the longest authority: a DNS name (RFC 1035 2.3.4), its final dot, and a port."""
WEB_PORTS: Final = {"http": 80, "https": 443}
"""The schemes of pages of the same site, and their default ports."""

# Names of containers may have an underscore. RFC 3986 also allows percent-encoding and delimiters in names, but DNS and hosts
# files do not. A zone (RFC 6874) has a meaning on the client's machine only.
_LABEL: Final = "[A-Za-z0-9_~-]+"
_AUTHORITY: Final = re.compile(
    rf"(?:({_LABEL}(?:\.{_LABEL})*)\.?|\[([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9._~-]+)?\])(?::([0-9]{{0,5}}))?"
)


class Authority(NamedTuple):
    """A host, and a port if there is one."""

    host: str
    """A name in lower case without a final dot, or an address; IPv6 in its shortest form, without brackets and zone."""
    port: int | None
    """None if there is none."""

    def port_or(self, default: int) -> int:
        """Return the port, or `default` if there is none."""
        return default if self.port is None else self.port


def parse_authority(text: str) -> Authority | None:
    """Parse `host`, `host:port`, `[v6]` or `[v6]:port`; None for anything else, as with a user part or two hosts."""
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
    """Return whether `origin` has the host and the port of `host`, the Host header of a request.

    Its scheme may be http or https, because a proxy may terminate TLS, and is the default for both ports.
    """
    scheme, _, rest = origin.partition("://")
    default = WEB_PORTS.get(scheme.lower())
    if default is None:
        return False
    page, server = parse_authority(rest), parse_authority(host)
    if page is None or server is None:
        return False
    return page.host == server.host and page.port_or(default) == server.port_or(default)
