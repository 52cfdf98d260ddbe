"""`scalesocket diff [SITE]`."""

from pathlib import Path

import click

from scalesocket.cli.remote import CONTROL, JSON, echo_changes, query, to_json
from scalesocket.cli.site_file import SITE
from scalesocket.control.messages import Diff, ReloadReport


@click.command
@SITE
@CONTROL
@JSON
def diff(site_file: Path, control: Path | None, form: str) -> None:
    """Show what a reload would change in the running server.

    Compares SITE (default: ./site.toml) with the running site. Each line has a key, its old and new value, its class and the
    number of rooms and clients affected. Classes: live (applies at once), next (to rooms opened from now on), listener (new
    sockets), fixed (the server must be restarted).
    """
    report = query(site_file, control, Diff(), ReloadReport)
    if form == "json":
        click.echo(to_json(report))
    else:
        echo_changes(report.changes)
