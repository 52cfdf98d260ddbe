"""`scalesocket schema`."""

import click

from scalesocket.config.schema import render_schema


@click.command
def schema() -> None:
    """Print the JSON Schema of site files, for editors."""
    click.echo(render_schema(), nl=False)
