"""`scalesocket check [SITE]...`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from scalesocket.cli.site_file import SITES
from scalesocket.config.load import find_problems, load_site_with_origins
from scalesocket.config.problems import Problem, Severity, render_problems

SITE_WRONG: Final = 78
"""The exit code for a site file that is wrong or unreadable (EX_CONFIG of sysexits.h)."""


@click.command
@SITES
@click.option("--no-env", is_flag=True, help="Skip what depends on this machine: commands, folders, certificates, users.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Output format; json is for editors.",
)
@click.pass_context
def check(ctx: click.Context, site_files: Sequence[Path], no_env: bool, strict: bool, form: str) -> None:
    """Check site files and print every error with its line.

    Checks each SITE (default: ./site.toml), prints OK or the errors and warnings, and exits with 0 or 78.
    """
    found = {file: _find_problems(file, with_machine=not no_env) for file in site_files}
    problems = [problem for each in found.values() for problem in each]
    if form == "json":
        click.echo(json.dumps([problem.to_record() for problem in problems], indent=2))
    else:
        for file, each in found.items():
            if each:
                click.echo(render_problems(each))
            verdict = _verdict(each) if _is_wrong(each, strict=strict) else "OK"
            click.echo(f"{file}: {verdict}" if len(found) > 1 else verdict)
    ctx.exit(SITE_WRONG if _is_wrong(problems, strict=strict) else 0)


def _find_problems(file: Path, *, with_machine: bool) -> Sequence[Problem]:
    """Find the problems of a site file; `with_machine`, of the files that it names as well."""
    problems = find_problems(file, with_machine=with_machine)
    if not with_machine or _is_wrong(problems, strict=False):
        return problems
    loaded = load_site_with_origins(file)
    if all(app.auth is None for app in loaded.site.apps.values()):
        return problems
    from scalesocket.auth.check import check_auth_files  # imported here: loading cryptography takes longer than the check

    return [*problems, *check_auth_files(loaded.site, loaded.origins)]


def _is_wrong(problems: Sequence[Problem], *, strict: bool) -> bool:
    return any(problem.severity is Severity.ERROR or strict for problem in problems)


def _verdict(problems: Sequence[Problem]) -> str:
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    warnings = len(problems) - errors
    counts = [(errors, "error"), (warnings, "warning")]
    return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)
