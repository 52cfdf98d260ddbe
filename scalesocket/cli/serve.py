"""`scalesocket serve [SITE]`."""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import click
from pydantic import TypeAdapter, ValidationError

from scalesocket.auth.check import check_auth_files
from scalesocket.cli.banner import announce
from scalesocket.cli.site_file import SITE
from scalesocket.config.addresses import Binds
from scalesocket.config.load import load_site_with_origins
from scalesocket.config.machine import check_machine
from scalesocket.config.model import Site
from scalesocket.config.problems import ConfigError, Severity, render_problems
from scalesocket.control.address import AUTO, ControlError, ControlTakenError, control_paths
from scalesocket.control.client import find_server, send_request
from scalesocket.control.messages import Status
from scalesocket.logs import describe_loss, log_faults, set_log
from scalesocket.reload.overrides import Overrides
from scalesocket.status import SiteStatus
from scalesocket.streams import unblock_output

STATUS_TIMEOUT: Final = 2.0
"""Seconds to wait for the status of a server that runs already."""


def _read_binds(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...] | None:
    try:
        return TypeAdapter[Any](Binds).validate_python(values) if values else None
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise click.BadParameter(reason, ctx, parameter) from error


@click.command
@SITE
@click.option(
    "--bind",
    multiple=True,
    callback=_read_binds,
    metavar="ADDRESS",
    help="Listen on this address instead of the file's `bind`; may be repeated.",
)
@click.option("--no-watch", is_flag=True, help="Apply edits only on SIGHUP or `scalesocket reload`.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Log format, instead of the file's.")
@click.option("-v", "--verbose", is_flag=True, help="Log at level debug, instead of the file's level.")
@click.option("--loop", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True, help="Event loop.")
def serve(
    site_file: Path,
    bind: tuple[str, ...] | None,
    no_watch: bool,
    log_format: Literal["text", "json"] | None,
    verbose: bool,
    loop: Literal["uvloop", "asyncio"],
) -> None:
    """Serve the apps of a site file, and apply edits while it runs.

    SITE is ./site.toml by default. An edit with an error is not applied: the site runs as before, and the log says what is
    wrong. Ctrl+C drains the server and stops it; a second one stops it at once.
    """
    unblock_output(describe_loss)
    overrides = Overrides(bind=bind, log_format=log_format, log_level="debug" if verbose else None)
    loaded = load_site_with_origins(site_file, with_machine=True)
    site = overrides.amend(loaded.site)
    problems = [*check_machine(site, loaded.origins), *check_auth_files(site, loaded.origins)]
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ConfigError([*loaded.warnings, *problems])
    if warnings := [*loaded.warnings, *problems]:
        click.echo(render_problems(warnings), err=True)
    _refuse_second_server(site, site_file)
    from scalesocket.supervisor import Options  # imported here, because loading it takes longer than `check` runs
    from scalesocket.supervisor import serve as serve_site
    from scalesocket.workers.supervisor import count_workers
    from scalesocket.workers.supervisor import serve as serve_with_workers

    set_log(site.server.log.format, site.server.log.level)
    log_faults()
    options = Options(loop=loop, is_watching=not no_watch, overrides=overrides)
    workers = count_workers(site.server.workers)
    serve_all = serve_site if workers == 1 else serve_with_workers
    sys.exit(serve_all(site, announce=partial(announce, workers=workers), options=options))


def _refuse_second_server(site: Site, site_file: Path) -> None:
    """Raise ControlTakenError if another server uses the control socket of this site, before anything listens."""
    paths = control_paths(site.server.control, site.path)
    pid = find_server(paths)
    if pid is None:
        return
    served = _file_served_at(paths)
    if site.server.control == AUTO or (served is not None and served.resolve() == site_file.resolve()):
        name = shlex.quote(str(site_file))
        hint = f"scalesocket status {name} shows it, scalesocket reload {name} applies an edit"
        raise ControlTakenError(f"{site_file}: process {pid} serves this file already ({hint})")
    use = "uses this control socket" if served is None else f"serves {served} with this control socket"
    raise ControlTakenError(f"{paths[0]}: process {pid} {use} (give {site_file} another server.control)")


def _file_served_at(paths: Sequence[Path]) -> Path | None:
    """Ask the server at a control socket for its site file; None if it does not answer."""
    try:
        status = send_request(paths, Status(), SiteStatus, timeout=STATUS_TIMEOUT)
    except ControlError:
        return None
    return None if status.site_file is None else Path(status.site_file)
