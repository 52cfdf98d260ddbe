"""The banner of a server that is ready: its addresses, and the URLs of its apps."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import click

from scalesocket import __version__
from scalesocket.cli.columns import NARROWEST, cut, terminal_width
from scalesocket.config.describe import describe_target
from scalesocket.config.model import App, Site

ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""The loopback address to show in URLs for a listener on all addresses."""
GAPS: Final = "  " * 3
"""The gaps in the line of an app: before its name, its URL and its command."""


def announce(addresses: Sequence[str], admin_addresses: Sequence[str], site: Site, *, workers: int = 1) -> None:
    """Print the banner to standard output. The log, on standard error, has the addresses as well."""
    click.echo(format_banner(addresses, site, terminal_width(), admin_addresses=admin_addresses, workers=workers))


def format_banner(
    addresses: Sequence[str], site: Site, width: int | None = None, *, admin_addresses: Sequence[str] = (), workers: int = 1
) -> str:
    """Return the lines of the banner, with colours (`click.echo` removes them where there is no terminal).

    `addresses` are the bound ones in the syntax of `bind`: `127.0.0.1:9000`, `[::1]:9000`, `unix:/run/site.sock`. URLs are
    those of the first TCP address. `admin_addresses` are those of the admin surface, `workers` is the number of processes that
    have rooms. Commands are cut so that lines fit into `width` columns (None: no limit).
    """
    base = _base_url(addresses, is_tls=site.server.tls is not None)
    what = f"scalesocket {__version__}" + (f" serves {site.path}" if site.path is not None else "")
    lines = [click.style(what, bold=True), *(f"  listening on {_listener(address, site)}" for address in addresses)]
    lines += [f"  admin API at {address if address.startswith('unix:') else f'http://{address}'}" for address in admin_addresses]
    lines += _worker_lines(site.server.workers, workers)
    lines.append("")
    longest = max((len(app.name) for app in site.apps.values()), default=0)
    for app in site.apps.values():
        lines += _app_lines(app, base, longest, width)
    lines.append("")
    lines.append("  " + "  ".join(base + path for path in _server_paths(site)))
    return "\n".join(lines)


def _worker_lines(setting: int | Literal["auto"], workers: int) -> Iterable[str]:
    if setting == "auto":
        one = '  one process, because the server may use one CPU (workers = "auto")'
        yield one if workers == 1 else f'  {workers} workers are ready, one for each CPU (workers = "auto")'
    elif workers > 1:
        yield f"  {workers} workers are ready"


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
    if site.server.metrics is True:
        yield "/metrics"
    if site.server.api is True:
        yield "/api/apps/"


def _listener(address: str, site: Site) -> str:
    if address.startswith(("unix:", "fd:")):
        return address
    url = f"{'https' if site.server.tls is not None else 'http'}://{address}"
    host, _, port = address.rpartition(":")
    if host not in ANY_HOST:
        return url
    local = f"; for this machine only: --bind {ANY_HOST[host]}:{port}" if site.path is None else ""
    return f"{url}  (all addresses: other machines can connect{local})"


def _base_url(addresses: Sequence[str], *, is_tls: bool) -> str:
    """Return the URL of the first TCP address; empty if there is none."""
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if colon and port.isdecimal() and not address.startswith(("unix:", "fd:")):
            return f"{'https' if is_tls else 'http'}://{ANY_HOST.get(host, host)}:{port}"
    return ""


def _websocket(url: str) -> str:
    return "ws" + url.removeprefix("http") if url.startswith("http") else url
