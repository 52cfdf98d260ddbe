"""Trusted proxies, and what they report about their clients."""

from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from scalesocket.config.addresses import UNIX_PEERS
from scalesocket.wire.address import parse_address
from scalesocket.wire.forwarded import find_client
from scalesocket.wire.handshake import Request

Networks = tuple[IPv4Network | IPv6Network | Literal["unix:"], ...]
"""`trusted_proxies` of the site file."""


def resolve_client(request: Request, trusted: Networks) -> Request:
    """Return the request with the address and the scheme of the client, as reported by trusted proxies."""
    if not is_from_trusted(trusted, request):
        return request
    peer, proto = find_client(request.headers, lambda address: is_trusted(address, trusted))
    return request._replace(
        peer=peer or request.peer,
        is_secure=request.is_secure if proto is None else proto in ("https", "wss"),
    )


def is_from_trusted(trusted: Networks, request: Request) -> bool:
    """Return whether the peer of the request's connection is a trusted proxy."""
    return is_trusted_peer(request.peer, trusted)


def is_trusted_peer(peer: tuple[str, int] | None, trusted: Networks) -> bool:
    """Return whether the peer of a connection is a trusted proxy. On a unix socket it is None, and trusted if `unix:` is."""
    if not trusted:  # for most sites: do not parse the address of each request
        return False
    return UNIX_PEERS in trusted if peer is None else is_trusted(peer[0], trusted)


def is_trusted(address: str, trusted: Networks) -> bool:
    """Return whether an address is in one of the networks."""
    parsed = parse_address(address)
    return parsed is not None and any(network != UNIX_PEERS and parsed in network for network in trusted)


def may_name_user(trusted: Networks, request: Request) -> bool:
    """Return whether the peer of the connection may name the user in a header (`auth.header`): a trusted HTTP proxy.

    A proxy that sends the PROXY protocol passes the bytes of its client on, headers included, so it is none.
    """
    return not request.is_proxied and is_from_trusted(trusted, request)
