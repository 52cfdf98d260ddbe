"""The SITE argument of a command: a site file, by default `site.toml` in the working directory."""

from pathlib import Path
from typing import Final

import click

SITE_FILE: Final = "site.toml"
"""The default name of a site file."""


def _site_or_default(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    return value if value is not None else default_site(ctx)


def _sites_or_default(ctx: click.Context, parameter: click.Parameter, values: tuple[Path, ...]) -> tuple[Path, ...]:
    return values or (default_site(ctx),)


def default_site(ctx: click.Context) -> Path:
    """Return the site file of the working directory. Raises click.UsageError if there is none.

    It may be missing if `--control` names the socket of the server.
    """
    if ctx.params.get("control") is None and not Path(SITE_FILE).exists():
        hint = "name a site file, or write one with scalesocket init"
        raise click.UsageError(f"no SITE given, and no {SITE_FILE} in this folder ({hint})", ctx)
    return Path(SITE_FILE)


SITE = click.argument("site_file", metavar="[SITE]", required=False, type=click.Path(path_type=Path), callback=_site_or_default)
"""One site file."""
SITES = click.argument("site_files", metavar="[SITE]...", nargs=-1, type=click.Path(path_type=Path), callback=_sites_or_default)
"""Any number of site files."""
