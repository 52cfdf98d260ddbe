"""URLs in the site file, which the server sends requests to."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import AfterValidator

from scalesocket.config.addresses import Endpoint, parse_endpoint
from scalesocket.config.values import string_form
from scalesocket.wire.address import is_loopback, parse_address

EXAMPLE: Final = 'write for example "https://id.example.com/path"'
ENGINE_EXAMPLE: Final = 'write for example "redis://10.0.0.2:6379/0"'
ENGINE_OPTIONS: Final = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""What may follow `?` in the URL of an engine, as redis-py names it; the last three with `rediss` alone."""

SENTINEL: Final = "redis+sentinel://"
SENTINEL_EXAMPLE: Final = 'write for example "redis+sentinel://10.0.0.2:26379,10.0.0.3:26379/mymaster"'

_SENTINELS: Final = re.compile(
    r"redis\+sentinel://(?P<user>[^/?#\s@{}]*@)?(?P<hosts>[^/?#\s@{}]+)/(?P<service>[A-Za-z0-9._-]+)(?:/(?P<db>\d{1,5}))?/?"
)
_DATABASE: Final = re.compile(r"/?\d{0,5}", re.ASCII)


def check_url(url: str) -> str:
    """Check a URL of http or https; raises ValueError with a hint."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"is not a URL of http or https ({EXAMPLE})")
    if parts.username is not None or parts.password is not None:
        raise ValueError("contains a user or a password, which would be shown (remove them)")
    if parts.fragment:
        raise ValueError("has a part after '#', which is never sent (delete it)")
    return url


def check_keys_url(url: str) -> str:
    """Check a URL that verification keys are fetched from: nobody on the way may exchange them. Raises ValueError."""
    check_url(url)
    if not is_private_url(url):
        raise ValueError("must be https, or http to a loopback address: anyone on the way could replace the keys")
    return url


def check_engine_url(url: str) -> str:
    """Check the URL of the engine of a cluster. Raises ValueError, without a password in the message."""
    if url.startswith(SENTINEL):
        parse_sentinels(url)
        return url
    parts = _split(url)
    if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"is not a URL of redis, rediss or unix ({ENGINE_EXAMPLE})")
    if parts.scheme == "unix" and (parts.hostname or not parts.path.startswith("/") or parts.path == "/"):
        raise ValueError('has no path of a socket (write for example "unix:///run/redis/redis.sock")')
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError(f"has no host ({ENGINE_EXAMPLE})")
    if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise ValueError("has a path that is not the number of a database (write for example /0 at its end)")
    if parts.fragment:
        raise ValueError("has a part after '#' (write '%23' for '#' in a password)")
    known = ENGINE_OPTIONS if parts.scheme == "rediss" else ENGINE_OPTIONS[:1]
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise ValueError(f"has an unknown option after '?' (one of: {', '.join(known)})")
        if name == "db" and not value.isdecimal():
            raise ValueError("has an option db that is not a number")
    return url


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Sentinels that know which of several engines is the primary."""

    addresses: tuple[Endpoint, ...]
    service: str
    """The name of the engines in the configuration of the sentinels."""
    url: str = field(repr=False)
    """The URL of the primary, with `{}` in place of host and port."""


def parse_sentinels(url: str) -> Sentinels:
    """Read `redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT …]/SERVICE[/DB]`. Raises ValueError without the password."""
    found = _SENTINELS.fullmatch(url) if url.isascii() and url.isprintable() else None
    if found is None:
        raise ValueError(f"is not a URL of sentinels ({SENTINEL_EXAMPLE})")
    try:
        addresses = tuple(parse_endpoint(text, is_listener=False) for text in found["hosts"].split(","))
    except ValueError:
        raise ValueError(f"has an address of a sentinel that is not host:port ({SENTINEL_EXAMPLE})") from None
    return Sentinels(addresses, found["service"], f"redis://{found['user'] or ''}{{}}/{found['db'] or 0}")


def is_private_url(url: str) -> bool:
    """Whether nobody on the way can read or change a request: over https, or to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback_name(parts.hostname or "")


def is_local_network(url: str) -> bool:
    """Whether the host of a URL is one of a private network."""
    return is_local_host(urlsplit(url).hostname or "")


def is_local_host(host: str) -> bool:
    """Whether a host is a private address, or a name without a dot, as that of a container."""
    address = parse_address(host)
    return "." not in host if address is None else address.is_private


def is_loopback_name(host: str) -> bool:
    """Whether a host, in lower case, is always this machine (RFC 6761 6.3)."""
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host)


def _split(url: str) -> SplitResult | None:
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.port != 0 else None
    except ValueError:
        return None


HttpUrl = Annotated[str, AfterValidator(check_url), string_form("URL")]
KeysUrl = Annotated[str, AfterValidator(check_keys_url), string_form("URL")]
EngineUrl = Annotated[str, AfterValidator(check_engine_url), string_form("URL")]
