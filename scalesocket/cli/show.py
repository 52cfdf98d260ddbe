"""`scalesocket show [SITE] [APP]`."""

from pathlib import Path

import click

from scalesocket.cli.flags import nearest_word
from scalesocket.cli.site_file import SITE_FILE, default_site
from scalesocket.config.load import load_site_with_origins
from scalesocket.config.model import Site
from scalesocket.config.render import render_site


@click.command
@click.argument("site_file", metavar="[SITE]", required=False, type=click.Path(path_type=Path))
@click.argument("app", metavar="[APP]", required=False)
@click.option("--origin", is_flag=True, help="Print the file and line of each value.")
@click.pass_context
def show(ctx: click.Context, site_file: Path | None, app: str | None, origin: bool) -> None:
    """Print the settings of a site file, defaults included.

    Reads SITE (default: ./site.toml), all of it or APP alone. Variables are replaced, secrets masked. A running server may
    have other settings: `scalesocket diff` shows them.
    """
    if site_file is not None and app is None and _is_app(site_file):
        site_file, app = None, str(site_file)
    loaded = load_site_with_origins(site_file or default_site(ctx))
    if app is not None and app not in loaded.site.apps:
        raise click.UsageError(_unknown(app, loaded.site), ctx)
    click.echo(render_site(loaded.site, origins=loaded.origins if origin else None, app=app), nl=False)


def _is_app(word: Path) -> bool:
    """Return whether a lone argument is the name of an app of ./site.toml, not a file."""
    return len(word.parts) == 1 and not word.suffix and not word.exists() and Path(SITE_FILE).exists()


def _unknown(app: str, site: Site) -> str:
    near = nearest_word(app, site.apps)
    hint = f"did you mean {near}?" if near else f"its apps: {', '.join(site.apps)}"
    return f"{site.path}: no app {app!r} ({hint})"
