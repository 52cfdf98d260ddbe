"""`scalesocket show SITE`."""

from pathlib import Path

import click

from scalesocket.cli.serve import SITE
from scalesocket.config.load import load_site_with_origins
from scalesocket.config.render import render_site


@click.command
@SITE
@click.option("--origin", is_flag=True, help="Name the file and line that each value came from.")
def show(site_file: Path, origin: bool) -> None:
    """Print what the file says: defaults filled in, variables replaced, secrets masked. A running server may differ: diff."""
    loaded = load_site_with_origins(site_file)
    click.echo(render_site(loaded.site, origins=loaded.origins if origin else None), nl=False)
