"""The types of single values in the site file, each with how it is read from text and written back."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from signal import Signals
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, Strict, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from scalesocket.config.hosts import parse_host

RESERVED_APPS: Final = frozenset({"admin", "api", "health", "metrics", "ready", "static"})
"""URL segments the server keeps for itself, so no app may have them as its name."""

APP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
ENV_NAME: Final = re.compile(r"[^=\x00]+")

DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
"""Ports that a URL of a scheme need not name."""
FROM_FILE: Final[dict[str, object]] = {"is_from_file": True}
"""The validation context of what stands in a site file: durations and sizes need their units then."""


class FileText(str):
    """A string from a site file: it remembers the folder its relative paths start from, and whether `${NAME}` was in it."""

    __slots__ = ("folder", "is_interpolated")

    folder: Path
    is_interpolated: bool

    def __new__(cls, text: str, folder: Path, *, is_interpolated: bool = False) -> "FileText":
        """Mark `text` as written in a file of `folder`, an absolute path."""
        marked = super().__new__(cls, text)
        marked.folder = folder
        marked.is_interpolated = is_interpolated
        return marked


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (name or address, IPv6 without its brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        """As the site file writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PortRange:
    """TCP ports, both ends included; 0 to 0 asks the kernel for a free one."""

    first: int
    last: int

    @property
    def is_auto(self) -> bool:
        """True when the kernel chooses."""
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
        raise ValueError(f"{text!r} has no port to connect to")
    return endpoint


def parse_endpoint(text: str, *, is_listener: bool = True) -> Endpoint:
    """Read `host:port` or `[v6]:port`; raises ValueError with a hint."""
    scheme, has_scheme, rest = text.partition("://")
    if has_scheme:
        raise ValueError(f'{text!r} is not an address (leave out "{scheme}://": "{rest or "host:port"}")')
    host, colon, port = text.rpartition(":")
    if not (colon or port.isdecimal()) or not port.isascii() or not port.isdecimal():
        raise ValueError(f'{text!r} is not an address (write "host:port" or "[v6]:port")')
    if int(port) > 65535:
        raise ValueError(f"port {port} of {text!r} is not in 0-65535")
    if host.startswith("[") and host.endswith("]"):
        return Endpoint(host[1:-1], int(port))
    if not host:
        every = f', or "0.0.0.0:{port}" for every interface' if is_listener else ""
        raise ValueError(f'{text!r} names no host (write "127.0.0.1:{port}"{every})')
    if ":" in host:
        raise ValueError(f'{text!r} is not an address (write IPv6 in brackets: "[{host}]:{port}")')
    return Endpoint(host, int(port))


def parse_ports(text: str) -> PortRange:
    """Read `auto`, `9001` or `9001-9999` (both ends included); raises ValueError with a hint."""
    if text == "auto":
        return PortRange(0, 0)
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    if match is None:
        raise ValueError(f'cannot read {text!r} as ports (write "auto" or "9001-9999")')
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"ports {text!r} are not a range within 1-65535")
    return PortRange(first, last)


def parse_signal(name: str) -> int:
    """The number of `SIGTERM` or `TERM`; raises ValueError for a name this system does not know."""
    try:
        return Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        raise ValueError(f'unknown signal {name!r} (write for example "SIGTERM", "SIGINT" or "SIGKILL")') from None


def format_signal(number: int) -> str:
    """`SIGTERM` for 15."""
    return Signals(number).name


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Read an address or a network in CIDR form; raises ValueError with a hint."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'{text!r} is not a network (write for example "10.0.0.0/8" or "::1")') from None
    raise ValueError(f'{text!r} has bits set beyond its prefix (write "{loose}")')


def parse_name(name: str) -> str:
    """Check the name of an app; raises ValueError with a hint."""
    if name in RESERVED_APPS:
        raise ValueError(f"the name {name!r} is reserved (choose another; reserved: {', '.join(sorted(RESERVED_APPS))})")
    if not APP_NAME.fullmatch(name):
        raise ValueError(f"bad app name {name!r} (lower-case letters, digits, '-' and '_', first a letter or digit)")
    return name


def parse_pattern(pattern: str) -> str:
    """Check a regular expression; raises ValueError with what is wrong and where."""
    try:
        re.compile(pattern)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 1}"
        raise ValueError(f"bad regular expression: {error.msg}{at}") from None
    except (OverflowError, RecursionError):
        raise ValueError("bad regular expression: it repeats or nests too much") from None
    return pattern


def _read(parse: Callable[[str], object]) -> BeforeValidator:
    def read(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            return parse(value)
        if info.context is not None:
            raise PydanticCustomError("string_type", "must be a string")
        return value

    return BeforeValidator(read)


def _read_flag(value: object) -> object:
    if isinstance(value, FileText) and value.is_interpolated:
        return {"true": True, "false": False}.get(value, value)
    return value


def _read_number(kind: type[int] | type[float]) -> BeforeValidator:
    def read(value: object) -> object:
        if isinstance(value, FileText) and value.is_interpolated:
            try:
                return kind(value)
            except ValueError:
                return value
        return value

    return BeforeValidator(read)


def _read_command(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot split {str(value)!r} into words: {str(error).lower()}") from None


def _check_command(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv or not argv[0]:
        raise ValueError("names no program")
    if any("\0" in word for word in argv):
        raise ValueError("an argument holds a NUL character, which no program can be given")
    return argv


def _check_env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not ENV_NAME.fullmatch(name):
            raise ValueError(f"bad name {name!r} (not empty, without '=' and NUL)")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a NUL character, which no program can be given")
    return env


def _read_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _read_path(value: object) -> object:
    """Resolve a relative path: from a file against its folder, from Python against the working directory."""
    if isinstance(value, FileText):
        return value.folder / value
    return Path.cwd() / value if isinstance(value, str | Path) else value


def _port_as_text(value: object) -> object:
    """A bare number is read as what it looks like, a port: the error then says what is missing, which quotes alone are not."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _read_binds(value: object) -> object:
    return _read_list(_port_as_text(value))


def _read_bind(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path:
            raise ValueError('"unix:" names no path (write for example "unix:/run/scalesocket.sock")')
        return "unix:" + str(_read_path(FileText(path, value.folder) if isinstance(value, FileText) else path))
    if value.startswith("fd://"):
        if not re.fullmatch(r"fd://\d{1,6}", value, re.ASCII):
            raise ValueError(f'cannot read {str(value)!r} as a file descriptor (write for example "fd://3")')
        return value
    parse_endpoint(value)
    return value


def _check_binds(binds: tuple[str, ...]) -> tuple[str, ...]:
    for at, bind in enumerate(binds):
        is_any_port = not bind.startswith(("unix:", "fd://")) and parse_endpoint(bind).port == 0
        if bind in binds[:at] and not is_any_port:  # port 0 is another port each time
            raise ValueError(f"{bind!r} stands here twice")
        for other in binds[:at]:
            if not is_any_port and _covers(bind, other):
                raise ValueError(f"{other!r} and {bind!r} are the same port (keep the one for every interface)")
    return binds


def _covers(one: str, other: str) -> bool:
    """Whether one of two addresses is for every interface, the other's included. Names are only known when they are resolved."""
    if any(bind.startswith(("unix:", "fd://")) for bind in (one, other)):
        return False
    end, other_end = parse_endpoint(one), parse_endpoint(other)
    try:
        ip, other_ip = ip_address(end.host.partition("%")[0]), ip_address(other_end.host.partition("%")[0])
    except ValueError:
        return False
    is_either_wildcard = ip.is_unspecified or other_ip.is_unspecified
    return end.port == other_end.port and ip.version == other_ip.version and is_either_wildcard


def _read_control(value: object) -> object:
    if not isinstance(value, str) or value in ("auto", "off"):
        return value
    return str(_read_path(value))


def _check_origin(origin: str) -> str:
    if origin in ("*", "null"):
        return origin
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s*]+", origin):
        raise ValueError(f'{origin!r} is not an origin (write "https://example.com", with its port if it has one, or "*")')
    scheme, _, host = origin.lower().partition("://")
    return f"{scheme}://{host.removesuffix(f':{DEFAULT_PORTS.get(scheme)}')}"  # browsers leave it out (RFC 6454 6.2)


def _check_subprotocol(name: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):  # RFC 6455 4.1
        wrong = next((character for character in name if not re.match(r"[!#$%&'*+.^_`|~0-9A-Za-z-]", character)), "")
        reason = f"{wrong!r} cannot stand in one" if wrong else "it is empty"
        raise ValueError(f'{str(name)!r} is not a subprotocol name: {reason} (write for example "mqtt", or "*" for any)')
    return name


def _check_delimiter(characters: str) -> str:
    if not characters:
        raise ValueError("names no character (binary = true takes output as it comes)")
    return characters


def _is_string(form: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "x-form": form})


def _is_one_or_more(form: str) -> WithJsonSchema:
    """In the file a list, or one string for a list of one."""
    return WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "x-form": form})


def _is_one_or_more_of(*words: str) -> WithJsonSchema:
    """In the file a list of some of these words, or one of them for a list of one."""
    one = {"enum": list(words)}
    form = f"list of {', '.join(f'`{chr(34)}{word}{chr(34)}`' for word in words)}"
    return WithJsonSchema({"anyOf": [one, {"type": "array", "items": one}], "x-form": form})


def _as_text() -> PlainSerializer:
    return PlainSerializer(str, when_used="json")


Flag = Annotated[bool, BeforeValidator(_read_flag), Strict()]
Count = Annotated[int, _read_number(int), Strict(), Field(ge=1), WithJsonSchema({"type": "integer", "minimum": 1})]
"""A whole number from 1."""
Amount = Annotated[
    float,
    _read_number(float),
    Field(gt=0, allow_inf_nan=False, strict=True),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]
"""A number above 0."""
AbsolutePath = Annotated[Path, BeforeValidator(_read_path), _as_text(), _is_string("path")]
"""An absolute path; a relative one is resolved when it is read."""
AppName = Annotated[str, AfterValidator(parse_name)]
Argv = Annotated[
    tuple[str, ...], BeforeValidator(_read_command), AfterValidator(_check_command), _is_one_or_more("list or string")
]
Env = Annotated[dict[str, str], AfterValidator(_check_env)]
Hosts = Annotated[
    tuple[Annotated[str, AfterValidator(parse_host)], ...],
    BeforeValidator(_read_list),
    Field(min_length=1),
    _is_one_or_more("string or list"),
]
Names = Annotated[tuple[str, ...], BeforeValidator(_read_list), _is_one_or_more("string or list")]
Bind = Annotated[str, BeforeValidator(_read_bind), BeforeValidator(_port_as_text)]
Binds = Annotated[
    tuple[Bind, ...],
    BeforeValidator(_read_binds),
    Field(min_length=1),
    AfterValidator(_check_binds),
    _is_one_or_more("string or list"),
]
ClientKeys = Annotated[
    tuple[Literal["_to", "_except", "_close", "_meta", "_cache"], ...],
    BeforeValidator(_read_list),
    _is_one_or_more_of("_to", "_except", "_close", "_meta", "_cache"),
]
Control = Annotated[str, BeforeValidator(_read_control), _is_string("path or word")]
Delimiter = Annotated[str, AfterValidator(_check_delimiter), _is_string("characters")]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(_read_list), _is_one_or_more("string or list")
]
Network = Annotated[IPv4Network | IPv6Network, _read(parse_network), _as_text()]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_read_list), _is_one_or_more("string or list")]
Pattern = Annotated[str, AfterValidator(parse_pattern), _is_string("regular expression")]
Ports = Annotated[PortRange, _read(parse_ports), _as_text(), _is_string("ports")]
Signal = Annotated[int, _read(parse_signal), PlainSerializer(format_signal, when_used="json"), _is_string("signal name")]
Subprotocols = Annotated[
    tuple[Annotated[str, AfterValidator(_check_subprotocol)], ...], BeforeValidator(_read_list), _is_one_or_more("string or list")
]
Target = Annotated[Endpoint, _read(parse_target), BeforeValidator(_port_as_text), _as_text(), _is_string("address")]
