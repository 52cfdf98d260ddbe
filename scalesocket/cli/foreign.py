"""Flags of other servers, which people try here: what to write instead. Pure."""

from collections.abc import Mapping
from typing import Final

HAS_PORT: Final = frozenset({"--port", "--address", "--host", "--listen"})
"""Flags for where to listen, of websocketd and others."""

INSTEAD: Final[Mapping[str, str]] = {
    "--devconsole": "there is no console; scalesocket init writes a site with a page to try it in, --staticdir DIR serves a page",
    "--dir": "several programs are the apps of a site file: scalesocket init",
    "--cgidir": "several programs are the apps of a site file: scalesocket init",
    "--ssl": 'a site file has TLS: tls = { certificate = "…", key = "…" } in [server]',
    "--sslcert": 'a site file has TLS: tls = { certificate = "…", key = "…" } in [server]',
    "--sslkey": 'a site file has TLS: tls = { certificate = "…", key = "…" } in [server]',
    "--origin": "a site file has origins; pages of any origin may connect here",
    "--sameorigin": "a site file has origins, by default the same; pages of any origin may connect here",
    "--loglevel": "write -v to log the most",
    "--reverselookup": "REMOTE_HOST is the address; names are not looked up",
}
"""By a flag of websocketd: what to do instead on the command line of one program."""


def instead(flag: str, value: str | None = None) -> str | None:
    """What to write instead of a flag that other servers have; None if it is none of those. `value`: what was given with it."""
    if flag in HAS_PORT:
        if value is None or not value.isdecimal():
            return "write --bind 127.0.0.1:PORT, or --bind 0.0.0.0:PORT for all addresses"
        return f"write --bind 127.0.0.1:{value}, or --bind 0.0.0.0:{value} for all addresses"
    return INSTEAD.get(flag)
