"""`scalesocket reload [SITE]`."""

from pathlib import Path

import click

from scalesocket.cli.asking import CONTROL, JSON, ask_server, echo_changes, to_json
from scalesocket.cli.site_file import SITE
from scalesocket.control.messages import Reload


@click.command
@SITE
@click.option("--dry-run", is_flag=True, help="Prepare everything and apply nothing.")
@click.option(
    "--restart", metavar="APP", help="Then restart this app's running rooms; clients are closed with 1012, spread over time."
)
@CONTROL
@JSON
def reload(site_file: Path, dry_run: bool, restart: str | None, control: Path | None, form: str) -> None:
    """Have the running server apply the site file now, and wait until it did or says why not."""
    report = ask_server(site_file, control, Reload(dry_run=dry_run, restart=restart)).report
    assert report is not None
    if form == "json":
        click.echo(to_json(report))
        return
    echo_changes(report.changes)
    if report.is_applied:
        click.echo(f"applied, generation {report.generation}")
    elif dry_run and report.changes:
        click.echo("not applied (dry run), would be")
    if report.restarted:
        click.echo(f"{report.restarted} room{'s' if report.restarted > 1 else ''} of {restart} told to restart")
