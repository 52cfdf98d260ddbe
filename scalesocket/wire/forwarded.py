"""Clients as reported by proxies: Forwarded (RFC 7239), X-Forwarded-For, and the PROXY protocol."""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Final

_FORWARDED_PAIR: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;,"\s]*))\s*')
_V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD: Final = struct.Struct("!12sBBH")
MAX_V1: Final = 107
"""Bytes of a PROXY line of version 1, its end included."""
MAX_V2: Final = 16 + 536
"""Bytes of an accepted header of version 2: addresses and a few TLVs."""

FORWARDING: Final = ("forwarded", "via", "x-real-ip")
"""Headers that proxies add, besides those with the prefix `x-forwarded-`."""

Address = tuple[str, int]
Report = tuple[Address | None, str | None]
"""The client's address, with port 0 if it is not reported, and its scheme in lower case; None for what is not reported."""

NO_REPORT: Final[Report] = (None, None)


def is_forwarded(headers: Mapping[str, str]) -> bool:
    """Return whether a request has a header that proxies add, with any value."""
    return any(name in FORWARDING or name.startswith("x-forwarded-") for name in headers)


def find_client(headers: Mapping[str, str], is_trusted: Callable[[str], bool]) -> Report:
    """Return the client that the trusted proxies report: the last address of the chain that is not a trusted proxy.

    `Forwarded` and `X-Forwarded-For` must agree if both are present. A proxy that knows one of them passes the other on
    unchanged, so a client may have written it. If they differ, neither is used.
    """
    forwarded, chain = headers.get("forwarded"), headers.get("x-forwarded-for")
    if forwarded is None:
        return _find_in_x_forwarded(headers, is_trusted)
    elements = _forwarded_elements(forwarded)
    client, depth = _nearest([element.get("for", "") for element in elements], is_trusted)
    if chain is not None and _find_in_x_forwarded(headers, is_trusted)[0] != client:
        return NO_REPORT
    proto = elements[-1 - depth].get("proto") if elements else None
    return client, proto.lower() if proto else None


def _find_in_x_forwarded(headers: Mapping[str, str], is_trusted: Callable[[str], bool]) -> Report:
    hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",")]
    client, depth = _nearest(hops, is_trusted)
    protos = [proto.strip().lower() for proto in headers.get("x-forwarded-proto", "").split(",")]
    return client, protos[max(0, len(protos) - 1 - depth)] or None  # most proxies replace it instead of adding theirs


def _nearest(hops: Sequence[str], is_trusted: Callable[[str], bool]) -> tuple[Address | None, int]:
    """Return the last address of a chain that is not a trusted proxy, and the number of addresses after it."""
    last, depth = None, 0
    for at, hop in enumerate(reversed(hops)):
        address = _parse_node(hop) if hop else None
        if address is None:  # obfuscated or invalid: the proxy that reported it is the nearest known
            break
        last, depth = address, at
        if not is_trusted(address[0]):
            break
    return last, depth


def _forwarded_elements(value: str) -> list[dict[str, str]]:
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(value):
        match = _FORWARDED_PAIR.match(value, at)
        if match is not None:
            text = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
            elements[-1].setdefault(match[1].lower(), text)
            at = match.end()
        if at < len(value):
            if value[at] == ",":
                elements.append({})
            elif value[at] != ";":
                return []  # malformed: ignore all of it
            at += 1
    return elements


def _parse_node(node: str) -> Address | None:
    """Parse `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80` or `2001:db8::1`."""
    host, port = node, ""
    if node.startswith("["):
        host, _, port = node[1:].partition("]")
        port = port.removeprefix(":")
    elif node.count(":") == 1:
        host, _, port = node.partition(":")
    try:
        return str(ip_address(host)), int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    except ValueError:
        return None


class ProxyHeaderError(Exception):
    """A PROXY header is malformed."""


def starts_proxy_header(head: bytes) -> bool:
    """Return whether `head` is a PROXY header of version 1 or 2, or the start of one."""
    return head[:6] == b"PROXY "[: len(head)] or head[:12] == _V2_SIGNATURE[: len(head)]


def is_proxy_header(head: bytes) -> bool:
    """Return whether `head` begins as a PROXY header and nothing else does."""
    return head.startswith((b"PROXY ", _V2_SIGNATURE[:5]))


def parse_proxy_header(head: bytes) -> tuple[int, Address | None] | None:
    """Parse a PROXY header (haproxy.org, proxy-protocol.txt). Return its length in bytes and the client's address.

    The address is None for connections of the proxy itself (LOCAL, UNKNOWN). Returns None while the header is incomplete.
    Raises ProxyHeaderError.
    """
    if head[:12] == _V2_SIGNATURE[: len(head)]:
        return _parse_v2(head)
    end = head.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(head) >= MAX_V1:
            raise ProxyHeaderError("the PROXY line does not end")
        return None
    words = head[:end].decode("latin-1").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return end + 2, None
    try:
        _, family, source, _, port, _ = words
        if family not in ("TCP4", "TCP6"):
            raise ValueError(family)
        if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError(port)
        return end + 2, (str(ip_address(source)), int(port))
    except ValueError as error:
        raise ProxyHeaderError("the PROXY line is malformed") from error


def _parse_v2(head: bytes) -> tuple[int, Address | None] | None:
    if len(head) < _V2_HEAD.size:
        return None
    _, command, family, size = _V2_HEAD.unpack_from(head)
    end = _V2_HEAD.size + size
    if command >> 4 != 2 or command & 0x0F > 1 or end > MAX_V2:
        raise ProxyHeaderError("the PROXY header is malformed")
    if len(head) < end:
        return None
    if command & 0x0F == 0:
        return end, None
    match family >> 4:
        case 1 if size >= 12:
            return end, (str(ip_address(head[16:20])), int.from_bytes(head[24:26], "big"))
        case 2 if size >= 36:
            return end, (str(ip_address(head[16:32])), int.from_bytes(head[48:50], "big"))
        case 0 | 3:
            return end, None
        case _:
            raise ProxyHeaderError("the PROXY header is malformed")
