"""`scalesocket schema`."""

import click

from scalesocket.config.schema import render_schema


@click.command
def schema() -> None:
    """Print the JSON Schema of site files, for editors.

    An editor with support for TOML schemas then completes keys and shows errors. Name the schema in the first line of the
    site file: #:schema PATH.
    """
    click.echo(render_schema(), nl=False)
