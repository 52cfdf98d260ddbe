"""What a server says when it is ready: where it listens, and which apps are at which URLs."""

from collections.abc import Iterable, Sequence
from typing import Final

import click

from scalesocket import __version__
from scalesocket.cli.columns import NARROWEST, cut, terminal_width
from scalesocket.config.describe import describe_target
from scalesocket.config.model import App, Site

ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""What to type into a browser on this machine for a listener on every interface."""
GAPS: Final = "  " * 3
"""In a line of an app: before its name, its URL and its command."""


def announce(addresses: Sequence[str], site: Site) -> None:
    """Print the banner on standard output; the log is on standard error and has the addresses, too."""
    click.echo(format_banner(addresses, site, terminal_width()))


def format_banner(addresses: Sequence[str], site: Site, width: int | None = None) -> str:
    """Several lines for a terminal, with colours (`click.echo` takes them out where they do not belong).

    `addresses` are those really bound, written as `bind` has them: `127.0.0.1:9000`, `[::1]:9000`, `unix:/run/site.sock`.
    URLs are shown for the first TCP address. Commands are cut to lines of `width` columns; None: they are shown whole.
    """
    base = _base_url(addresses, is_tls=site.server.tls is not None)
    what = f"scalesocket {__version__}" + (f" serves {site.path}" if site.path is not None else "")
    lines = [click.style(what, bold=True), *(f"  listening on {_listener(address, site)}" for address in addresses), ""]
    longest = max((len(app.name) for app in site.apps.values()), default=0)
    for app in site.apps.values():
        lines += _app_lines(app, base, longest, width)
    lines.append("")
    lines.append("  " + "  ".join(base + path for path in _server_paths(site)))
    return "\n".join(lines)


def _app_lines(app: App, base: str, longest: int, width: int | None) -> Iterable[str]:
    root = base + app.mount.rstrip("/")
    name = click.style(app.name.ljust(longest), fg="green")
    if app.static is not None:
        yield f"  {name}  {root}/" + ("" if app.has_rooms else click.style("  pages", dim=True))
        name = " " * longest
    if not app.has_rooms:
        return
    url = f"{_websocket(root)}/ROOM"
    target, left = describe_target(app), None if width is None else width - longest - len(url) - len(GAPS)
    if left is None or left >= NARROWEST:
        yield f"  {name}  {url}  " + click.style(cut(target, left), dim=True)
    else:
        yield f"  {name}  {url}"


def _server_paths(site: Site) -> Iterable[str]:
    yield "/health"
    if site.server.metrics:
        yield "/metrics"
    if site.server.api:
        yield "/api/apps/"


def _listener(address: str, site: Site) -> str:
    if address.startswith(("unix:", "fd:")):
        return address
    url = f"{'https' if site.server.tls is not None else 'http'}://{address}"
    host, _, port = address.rpartition(":")
    if host not in ANY_HOST:
        return url
    local = f"; --bind {ANY_HOST[host]}:{port} for this machine alone" if site.path is None else ""
    return f"{url}  (all addresses: others on the network can connect{local})"


def _base_url(addresses: Sequence[str], *, is_tls: bool) -> str:
    """Scheme, host and port of the first address a browser can open; empty when there is none."""
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if colon and port.isdecimal() and not address.startswith(("unix:", "fd:")):
            return f"{'https' if is_tls else 'http'}://{ANY_HOST.get(host, host)}:{port}"
    return ""


def _websocket(url: str) -> str:
    return "ws" + url.removeprefix("http") if url.startswith("http") else url
