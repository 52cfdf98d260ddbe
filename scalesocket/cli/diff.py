"""`scalesocket diff [SITE]`."""

from pathlib import Path

import click

from scalesocket.cli.asking import CONTROL, JSON, ask_server, echo_changes, to_json
from scalesocket.cli.site_file import SITE
from scalesocket.control.messages import Diff


@click.command
@SITE
@CONTROL
@JSON
def diff(site_file: Path, control: Path | None, form: str) -> None:
    """Show what `reload` would change in the running server: each key, its class, and how many rooms and clients notice."""
    report = ask_server(site_file, control, Diff()).report
    assert report is not None
    if form == "json":
        click.echo(to_json(report))
    else:
        echo_changes(report.changes)
