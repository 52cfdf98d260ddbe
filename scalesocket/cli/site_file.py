"""The site file of a subcommand: the one that is named, or `site.toml` in the working directory."""

from pathlib import Path
from typing import Final

import click

SITE_FILE: Final = "site.toml"
"""What a site file is called where nothing else is said."""


def _find_site(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    return value if value is not None else default_site(ctx)


def _find_sites(ctx: click.Context, parameter: click.Parameter, values: tuple[Path, ...]) -> tuple[Path, ...]:
    return values or (default_site(ctx),)


def default_site(ctx: click.Context) -> Path:
    """The site file of the working directory; raises click.UsageError if there is none."""
    if not Path(SITE_FILE).exists():
        hint = "name the site file, or write one: scalesocket init"
        raise click.UsageError(f"no SITE is given, and there is no {SITE_FILE} in this folder ({hint})", ctx)
    return Path(SITE_FILE)


SITE = click.argument("site_file", metavar="[SITE]", required=False, type=click.Path(path_type=Path), callback=_find_site)
"""The site file, as most subcommands take it."""
SITES = click.argument("site_files", metavar="[SITE]...", nargs=-1, type=click.Path(path_type=Path), callback=_find_sites)
"""Any number of site files."""
