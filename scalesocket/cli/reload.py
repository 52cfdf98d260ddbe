"""`scalesocket reload [SITE]`."""

from pathlib import Path

import click

from scalesocket.cli.remote import CONTROL, JSON, echo_changes, format_warnings, query, to_json
from scalesocket.cli.site_file import SITE
from scalesocket.control.messages import Reload, ReloadReport


@click.command
@SITE
@click.option("--dry-run", is_flag=True, help="Prepare everything, apply nothing.")
@click.option(
    "--restart", metavar="APP", help="Also restart the open rooms of APP; their clients are closed with 1012, spread over time."
)
@CONTROL
@JSON
def reload(site_file: Path, dry_run: bool, restart: str | None, control: Path | None, form: str) -> None:
    """Apply a site file to its running server now.

    Waits until SITE (default: ./site.toml) is applied, or says why it is not; the site then runs as before. A server applies
    edits by itself, too, unless it was started with --no-watch.
    """
    report = query(site_file, control, Reload(dry_run=dry_run, restart=restart), ReloadReport)
    if form == "json":
        click.echo(to_json(report))
        return
    echo_changes(report.changes)
    for line in format_warnings(report.warnings):
        click.echo(line, err=True)
    if report.is_applied:
        click.echo(f"applied, generation {report.generation}")
    elif dry_run and report.changes:
        click.echo("can be applied; nothing was, because of --dry-run")
    if report.restarted:
        click.echo(f"restarting {report.restarted} room{'s' if report.restarted > 1 else ''} of {restart}")
