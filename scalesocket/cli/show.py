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
@click.option("--origin", is_flag=True, help="Name the file and line that each value came from.")
@click.pass_context
def show(ctx: click.Context, site_file: Path | None, app: str | None, origin: bool) -> None:
    """Print what the file says (./site.toml by default), or what it says of APP alone.

    Defaults are filled in, variables replaced, secrets masked. A running server may differ: diff.
    """
    if site_file is not None and app is None and _is_app(site_file):
        site_file, app = None, str(site_file)
    loaded = load_site_with_origins(site_file or default_site(ctx))
    if app is not None and app not in loaded.site.apps:
        raise click.UsageError(_unknown(app, loaded.site), ctx)
    click.echo(render_site(loaded.site, origins=loaded.origins if origin else None, app=app), nl=False)


def _is_app(word: Path) -> bool:
    """Whether the only word can but be an app of ./site.toml."""
    return len(word.parts) == 1 and not word.suffix and not word.exists() and Path(SITE_FILE).exists()


def _unknown(app: str, site: Site) -> str:
    near = nearest_word(app, site.apps)
    hint = f"did you mean {near}?" if near else f"one of: {', '.join(site.apps)}"
    return f"there is no app {app!r} in {site.path} ({hint})"
