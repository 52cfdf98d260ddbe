"""`scalesocket`: the subcommands, and the original's command line for everything else."""

import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from scalesocket import __version__
from scalesocket.cli.check import SITE_WRONG, check
from scalesocket.cli.diff import diff
from scalesocket.cli.flags import nearest_word
from scalesocket.cli.foreign import HAS_PORT, instead
from scalesocket.cli.init import init
from scalesocket.cli.reload import reload
from scalesocket.cli.run import BARE, run
from scalesocket.cli.schema import schema
from scalesocket.cli.serve import serve
from scalesocket.cli.show import show
from scalesocket.cli.status import status
from scalesocket.config.problems import ConfigError
from scalesocket.control.address import SiteRefusedError
from scalesocket.errors import ScalesocketError
from scalesocket.streams import open_missing_streams

NAME: Final = "scalesocket"
WRONG_USAGE: Final = click.UsageError.exit_code

HELP: Final = """\
Turn any program into a multiplayer websocket server, and host many of them on one endpoint.

\b
  scalesocket serve site.toml           many apps, from a site file
  scalesocket [FLAGS] CMD [-- ARGS...]  one program; `scalesocket run --help` lists the flags

A subcommand counts only as the very first word. `scalesocket run -- serve` wraps a program called serve.
"""


WAYS_IN: Final = """\
Usage: scalesocket COMMAND, or scalesocket [FLAGS] CMD [-- ARGS...]

Nothing to serve yet. There are two ways in:

  scalesocket init                         list starter sites; `init NAME` writes one
  scalesocket serve site.toml              serve the apps of a site file

  scalesocket --addr 127.0.0.1:9000 cat    wrap one program, without a file

scalesocket --help lists the rest.\
"""


class Commands(click.Group):
    """The subcommands, which turn our errors into words and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _without_guesses(error) from error
        except ScalesocketError as error:
            _fail(ctx, error)
        except ExceptionGroup as group:  # from below a task group
            ours, others = group.split(ScalesocketError)
            if ours is None or others is not None:
                raise
            _fail(ctx, _first(ours))


def _without_guesses(error: click.NoSuchOption) -> click.UsageError:
    """The same with at most one suggestion: click's own would answer --foo with --loop."""
    options = [name for param in (error.ctx.command.params if error.ctx else ()) for name in param.opts if name.startswith("--")]
    near = nearest_word(error.option_name, options)
    hint = f"did you mean {near}?" if near else ""
    if "--bind" in options and error.option_name in (*HAS_PORT, "--addr"):
        hint = instead("--port") or hint
    return click.UsageError(f"unknown flag {error.option_name!r}" + (f" ({hint})" if hint else ""), error.ctx)


def _first(group: ExceptionGroup[ScalesocketError]) -> ScalesocketError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def _fail(ctx: click.Context, error: ScalesocketError) -> NoReturn:
    if isinstance(error, ConfigError | SiteRefusedError):
        click.echo(error.render() if isinstance(error, ConfigError) else str(error), err=True)
        ctx.exit(SITE_WRONG)
    raise click.ClickException(str(error)) from error


@click.group(NAME, cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name=NAME, message="%(prog)s %(version)s")
def commands() -> None:
    """Hold the subcommands together."""


for command in (serve, run, check, show, diff, reload, status, init, schema):
    commands.add_command(command)


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says, and exit with 0, 1 (it failed), 2 (wrong usage) or 78 (the site file is wrong)."""
    open_missing_streams()
    words = sys.argv[1:] if words is None else words
    if not words:
        click.echo(WAYS_IN, err=True)
        sys.exit(WRONG_USAGE)
    if list(words) == ["help"]:
        words = ["--help"]
    is_ours = words[:1] and (words[0] in commands.commands or words[0] in ("-h", "--help", "-V", "--version"))
    if is_ours:
        commands.main(list(words), prog_name=NAME)
    else:
        commands.main([run.name or "", *words], prog_name=NAME, obj=BARE)
