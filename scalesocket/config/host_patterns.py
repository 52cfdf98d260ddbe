"""Host names and patterns that the site file allows in `Host`."""

import re
from ipaddress import ip_address
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from scalesocket.config.values import one_or_more, read_list

ANY_HOST: Final = "*"

_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9_~-]+(\.[A-Za-z0-9_~-]+)*\.?")


def parse_host_pattern(text: str) -> str:
    """Read a host name, `*.name` for all names below it, an address, or `*`; raises ValueError with a hint.

    Returns names in lower case without a final dot, IPv6 addresses in their shortest form without brackets.
    """
    if text == ANY_HOST:
        return text
    host, port = _without_port(_without_scheme(text))
    if host != text:
        what = "a port; a host has the same rules on every port" if port else "more than a host"
        raise ValueError(f'{text!r} contains {what} (write "{host}")')
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if not text.isascii():
        raise ValueError(f"{text!r} is not ASCII, and browsers send the ASCII form{_punycode(text)}")
    if not _NAME.fullmatch(text):
        raise ValueError(f'{text!r} is not a host (write for example "play.example", "*.play.example" or "127.0.0.1")')
    return text.lower().removesuffix(".")


def matches_host(patterns: tuple[str, ...], host: str) -> bool:
    """Whether one of the patterns that `parse_host_pattern` returned matches a host, which is normalized as they are."""
    return any(host == pattern or (pattern[0] == "*" and host.endswith(pattern[1:])) for pattern in patterns)


def _without_scheme(text: str) -> str:
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://|/$", "", text)


def _without_port(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", text)
    return (match[1], match[2]) if match else (text, "")


def _punycode(text: str) -> str:
    try:
        return f' (write "{text.lower().encode("idna").decode()}")'
    except UnicodeError:
        return ""


HostPatterns = Annotated[
    tuple[Annotated[str, AfterValidator(parse_host_pattern)], ...],
    BeforeValidator(read_list),
    Field(min_length=1),
    one_or_more("string or list"),
]
