"""Writes the site of a command line as a site file. Pure."""

from collections.abc import Iterator
from pathlib import Path

from scalesocket.config.model import App, Server, Site
from scalesocket.config.render import render_table, to_site_toml


def site_to_toml(site: Site, line: str, *, cwd: Path | None = None) -> str:
    """Return a site file that behaves like the command line; comments name the differences that remain.

    `line` is quoted at its head. `cwd` is the program's working directory, if it is not the folder of the file.
    """
    (app,) = site.apps.values()
    defaults = Server()
    server = site.server.model_copy(update={"control": defaults.control, "max_connections": defaults.max_connections})
    lines = [f"# Converted from: {' '.join(line.splitlines())}", "", "[server]"]
    lines += _server_lines(server)
    lines += ["", f"[apps.{app.name}]"]
    lines += _app_lines(app, cwd)
    return "\n".join(lines) + "\n"


def _server_lines(server: Server) -> Iterator[str]:
    yield from render_table(server, only_changed=True).splitlines()
    yield f"# max_connections is {server.max_connections} here, the default; the command line has no limit"


def _app_lines(app: App, cwd: Path | None) -> Iterator[str]:
    if cwd is not None:
        yield f"cwd = {to_site_toml(cwd)}"
    yield from render_table(app, only_changed=True).splitlines()
    if app.input_end is not None and app.delimiter and app.input_end not in app.delimiter:
        end = to_site_toml(app.delimiter[:1])
        yield f"# records to the program end with {end} here; the command line ends them with a newline"
    if app.max_rooms is None:
        yield "# max_rooms is 1000 here, the default; the command line has no limit"
    if app.start_delay:
        yield "# --delay is left out: the server polls the port until the program listens"
    if app.oneshot:
        yield "# the server goes on after the room has ended; on the command line --oneshot ends the server, too"
