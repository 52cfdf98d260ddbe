"""`scalesocket serve [SITE]`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import TypeAdapter, ValidationError

from scalesocket.cli.banner import announce
from scalesocket.cli.site_file import SITE
from scalesocket.config.addresses import Binds
from scalesocket.config.load import load_site_with_origins
from scalesocket.config.machine import check_machine
from scalesocket.config.model import Site
from scalesocket.config.problems import ConfigError, Severity, render_problems
from scalesocket.control.address import ControlTakenError, control_paths
from scalesocket.control.client import find_server
from scalesocket.logs import describe_loss, log_faults, set_log
from scalesocket.reload.overrides import Overrides
from scalesocket.streams import unblock_output


def _read_binds(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...] | None:
    try:
        return TypeAdapter[Any](Binds).validate_python(values) if values else None
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise click.BadParameter(reason, ctx, parameter) from error


@click.command
@SITE
@click.option("--bind", multiple=True, callback=_read_binds, metavar="ADDRESS", help="Listen here instead (may be given again).")
@click.option("--no-watch", is_flag=True, help="Apply edits only on SIGHUP and `scalesocket reload`.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Log so, whatever the file says.")
@click.option("-v", "--verbose", is_flag=True, help="Log the most, whatever the file says.")
@click.option("--loop", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True, help="The event loop.")
def serve(
    site_file: Path,
    bind: tuple[str, ...] | None,
    no_watch: bool,
    log_format: Literal["text", "json"] | None,
    verbose: bool,
    loop: Literal["uvloop", "asyncio"],
) -> None:
    """Serve the apps of a site file, and apply edits to it while they run."""
    unblock_output(describe_loss)
    overrides = Overrides(bind=bind, log_format=log_format, log_level="debug" if verbose else None)
    loaded = load_site_with_origins(site_file, is_machine_meant=True)
    site = overrides.amend(loaded.site)
    lacks = check_machine(site, loaded.origins)
    if any(problem.severity is Severity.ERROR for problem in lacks):
        raise ConfigError([*loaded.warnings, *lacks])
    if warnings := [*loaded.warnings, *lacks]:
        click.echo(render_problems(warnings), err=True)
    _refuse_second_server(site, site_file)
    from scalesocket.supervisor import Options  # here, because it takes longer to load than `check` takes to run
    from scalesocket.supervisor import serve as serve_site

    set_log(site.server.log.format, site.server.log.level)
    log_faults()
    options = Options(loop=loop, is_watching=not no_watch, overrides=overrides)
    sys.exit(serve_site(site, announce=announce, options=options))


def _refuse_second_server(site: Site, site_file: Path) -> None:
    """Raise ControlTakenError if another server runs this site file, before anything listens or says so."""
    pid = find_server(control_paths(site.server.control, site.path))
    if pid is not None:
        name = shlex.quote(str(site_file))
        raise ControlTakenError(
            f"{site_file} is being served already, by process {pid} "
            f"(scalesocket status {name} shows it, scalesocket reload {name} applies an edit)"
        )
