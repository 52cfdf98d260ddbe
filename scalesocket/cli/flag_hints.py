"""Flags of other servers, websocketd above all, and what to write here instead. Pure."""

from collections.abc import Mapping
from typing import Final

ADDRESS_FLAGS: Final = frozenset({"--port", "--address", "--host", "--listen"})
"""Flags of other servers for the address to listen on."""

_SEVERAL: Final = "for several programs write a site file: scalesocket init"
_TLS: Final = 'TLS needs a site file: tls = { certificate = "…", key = "…" } in [server]'
_ORIGIN: Final = "pages of any origin may connect here; a site file restricts them: origins in [apps.NAME]"

HINTS: Final[Mapping[str, str]] = {
    "--devconsole": "there is no console: scalesocket init writes a site with a page, and --staticdir DIR serves your own",
    "--dir": _SEVERAL,
    "--cgidir": _SEVERAL,
    "--ssl": _TLS,
    "--sslcert": _TLS,
    "--sslkey": _TLS,
    "--origin": _ORIGIN,
    "--sameorigin": _ORIGIN,
    "--loglevel": "write -v for a debug log",
    "--reverselookup": "addresses are not looked up: REMOTE_HOST is the address",
}
"""By a flag of websocketd: what to do instead on the command line of one program."""


def hint_for_flag(flag: str, value: str | None = None) -> str | None:
    """Say what to write instead of another server's flag, given with `value`; None if the flag is not known."""
    if flag in ADDRESS_FLAGS:
        port = value if value is not None and value.isdecimal() else "PORT"
        return f"write --bind 127.0.0.1:{port}, or --bind 0.0.0.0:{port} for all addresses"
    return HINTS.get(flag)
