"""Names of hosts in the site file."""

import re
from ipaddress import ip_address
from typing import Final

ANY_HOST: Final = "*"

_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9_~-]+(\.[A-Za-z0-9_~-]+)*\.?")


def parse_host(text: str) -> str:
    """Read a name, `*.name` for every name below it, an address, or `*`, as requests are compared with it.

    Names are returned in lower case without a final dot, IPv6 addresses in their shortest form without brackets. Raises
    ValueError with a hint.
    """
    if text == ANY_HOST:
        return text
    host, port = _without_port(_without_scheme(text))
    if host != text:
        what = "a port, and a host has the same rules on every port" if port else "more than a host"
        raise ValueError(f'{text!r} names {what} (write "{host}")')
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if not text.isascii():
        raise ValueError(f"{text!r} is not the form in which browsers send it{_punycode(text)}")
    if not _NAME.fullmatch(text):
        raise ValueError(f'{text!r} is not a host (write for example "play.example", "*.play.example" or "127.0.0.1")')
    return text.lower().removesuffix(".")


def lists_host(hosts: tuple[str, ...], host: str) -> bool:
    """Whether a list of what `parse_host` returns has a host, which is written the same way."""
    return any(host == listed or (listed[0] == "*" and host.endswith(listed[1:])) for listed in hosts)


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
