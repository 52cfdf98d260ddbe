"""Network addresses of the site file: where the server listens, what it connects to, and which proxies it trusts."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from scalesocket.config.values import FileText, as_text, one_or_more, read_list, read_path, read_string, string_form

UNIX_PEERS: Final = "unix:"
"""What stands in `trusted_proxies` for the peers of unix sockets, which have no address. nginx: `set_real_ip_from unix:`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host name or address, and a TCP port. IPv6 addresses are without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        """As the site file writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PortRange:
    """A range of TCP ports, both ends included. 0 to 0 stands for any free port."""

    first: int
    last: int

    @property
    def is_auto(self) -> bool:
        """Whether the kernel chooses the port."""
        return self.first == 0

    def __str__(self) -> str:
        """As the site file writes it."""
        if self.is_auto:
            return "auto"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_target(text: str) -> Endpoint:
    """Read the address of a target; raises ValueError with a hint."""
    endpoint = parse_endpoint(text, is_listener=False)
    if not endpoint.port:
        raise ValueError(f"{text!r} has port 0, which cannot be connected to")
    return endpoint


def parse_endpoint(text: str, *, is_listener: bool = True) -> Endpoint:
    """Read `host:port` or `[v6]:port`; raises ValueError with a hint."""
    scheme, has_scheme, rest = text.partition("://")
    if has_scheme:
        raise ValueError(f'{text!r} is not an address (write "{rest or "host:port"}", without "{scheme}://")')
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if is_bracketed else host
    has_port = bool(colon or text.isdecimal()) and port.isascii() and port.isdecimal()
    if not has_port or not name or any(sign in name for sign in ("[]" if is_bracketed else "[]:")):
        raise ValueError(f"{text!r} {_find_fault(text, name, port if has_port else None, is_listener=is_listener)}")
    if int(port) > 65535:
        raise ValueError(f"port {port} of {text!r} is out of range (0 to 65535)")
    return Endpoint(name, int(port))


def _find_fault(text: str, name: str, port: str | None, *, is_listener: bool) -> str:
    """Describe what is wrong with an address, and what was probably meant. `port` is None if it has none."""
    bare = text.strip("[]")
    if port is not None and not name:
        every = f', or "0.0.0.0:{port}" for every interface' if is_listener else ""
        return f'has no host (write "127.0.0.1:{port}"{every})'
    if port is not None and _is_ipv6(name.strip("[]")):
        return f'is not an address (write IPv6 in brackets: "[{name.strip("[]")}]:{port}")'
    if _is_ipv6(bare):
        return f'{"has no port" if text == f"[{bare}]" else "is not an address"} (write for example "[{bare}]:9000")'
    if not text.strip():
        return 'is not an address (write for example "127.0.0.1:9000")'
    if not any(sign in text for sign in "[]:"):
        return f'has no port (write for example "{text}:9000")'
    return 'is not an address (write "host:port" or "[v6]:port")'


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text.partition("%")[0]).version == 6 and not any(sign in text for sign in "[]")
    except ValueError:
        return False


def parse_ports(text: str) -> PortRange:
    """Read `auto`, `9001` or `9001-9999` (both ends included); raises ValueError with a hint."""
    if text == "auto":
        return PortRange(0, 0)
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    if match is None:
        raise ValueError(f'{text!r} is not a port or a range of ports (write "auto" or "9001-9999")')
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{text!r} is not a range of ports (first to last, within 1 to 65535)")
    return PortRange(first, last)


def parse_network(text: str) -> IPv4Network | IPv6Network | Literal["unix:"]:
    """Read an address or a network in CIDR form, or `unix:`; raises ValueError with a hint."""
    if text.startswith(UNIX_PEERS) or text.lower() == "unix":
        if text != UNIX_PEERS:
            raise ValueError(f'{text!r} is not a network (did you mean "{UNIX_PEERS}", for the peers of all unix sockets?)')
        return UNIX_PEERS
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'{text!r} is not a network (write for example "10.0.0.0/8" or "::1")') from None
    raise ValueError(f'{text!r} is an address within a network (write "{loose}")')


def _port_to_text(value: object) -> object:
    """Read a bare number as a port, so that the error asks for the host; quotes alone would not help."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _read_binds(value: object) -> object:
    return read_list(_port_to_text(value))


def _read_bind(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path:
            raise ValueError('"unix:" has no path (write for example "unix:/run/scalesocket.sock")')
        return "unix:" + str(read_path(FileText(path, value.folder) if isinstance(value, FileText) else path))
    if value.startswith("fd://"):
        if not re.fullmatch(r"fd://\d{1,6}", value, re.ASCII):
            raise ValueError(f'{str(value)!r} is not a file descriptor (write for example "fd://3")')
        return value
    parse_endpoint(value)
    return value


def _check_binds(binds: tuple[str, ...]) -> tuple[str, ...]:
    for at, bind in enumerate(binds):
        is_any_port = not bind.startswith(("unix:", "fd://")) and parse_endpoint(bind).port == 0
        if bind in binds[:at] and not is_any_port:  # each 0 is another port
            raise ValueError(f"{bind!r} is listed twice (delete one)")
        for other in binds[:at]:
            if not is_any_port and _covers(bind, other):
                raise ValueError(f"{other!r} and {bind!r} overlap (keep only the one for every interface)")
    return binds


def _covers(one: str, other: str) -> bool:
    """Whether one of two addresses includes the other: same port, and one is for every interface. Names are not resolved."""
    if any(bind.startswith(("unix:", "fd://")) for bind in (one, other)):
        return False
    end, other_end = parse_endpoint(one), parse_endpoint(other)
    try:
        ip, other_ip = ip_address(end.host.partition("%")[0]), ip_address(other_end.host.partition("%")[0])
    except ValueError:
        return False
    is_either_wildcard = ip.is_unspecified or other_ip.is_unspecified
    return end.port == other_end.port and ip.version == other_ip.version and is_either_wildcard


Bind = Annotated[str, BeforeValidator(_read_bind), BeforeValidator(_port_to_text)]
Binds = Annotated[
    tuple[Bind, ...],
    BeforeValidator(_read_binds),
    Field(min_length=1),
    AfterValidator(_check_binds),
    one_or_more("string or list"),
]
Network = Annotated[IPv4Network | IPv6Network | Literal["unix:"], read_string(parse_network), as_text()]
Networks = Annotated[tuple[Network, ...], BeforeValidator(read_list), one_or_more("string or list")]
Ports = Annotated[PortRange, read_string(parse_ports), as_text(), string_form("ports")]
Target = Annotated[Endpoint, read_string(parse_target), BeforeValidator(_port_to_text), as_text(), string_form("address")]
Listen = Annotated[Endpoint, read_string(parse_endpoint), BeforeValidator(_port_to_text), as_text(), string_form("address")]
"""Where the server listens for other nodes; port 0 takes any free one."""
