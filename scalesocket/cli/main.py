"""`scalesocket`: the commands, and the original's command line for everything else."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import click

from scalesocket import __version__
from scalesocket.cli.changes import drain, kick, restart, say, stop
from scalesocket.cli.check import SITE_WRONG, check
from scalesocket.cli.cluster import cluster
from scalesocket.cli.diff import diff
from scalesocket.cli.flag_hints import ADDRESS_FLAGS, hint_for_flag
from scalesocket.cli.flags import nearest_word
from scalesocket.cli.init import init
from scalesocket.cli.reload import reload
from scalesocket.cli.rooms import clients, rooms
from scalesocket.cli.run import BARE, run
from scalesocket.cli.schema import schema
from scalesocket.cli.serve import serve
from scalesocket.cli.show import show
from scalesocket.cli.status import status
from scalesocket.cli.tail import tail
from scalesocket.cli.token import token
from scalesocket.config.problems import ConfigError
from scalesocket.control.address import SiteRefusedError
from scalesocket.errors import ScalesocketError
from scalesocket.streams import open_missing_streams

NAME: Final = "scalesocket"
WRONG_USAGE: Final = click.UsageError.exit_code
SYNOPSIS: Final = "COMMAND [ARGS...], or scalesocket [FLAGS] CMD [-- ARGS...]"

HELP: Final = """\
Turn any program into a multiplayer websocket server: each room is one process, shared by its clients.

There are two ways to use it.

\b
Many apps, from a site file:
  scalesocket init chat                  write a starter site: site.toml, program and page
  scalesocket serve site.toml            serve it; edits of the file are applied at once

\b
One program, without a file:
  scalesocket [FLAGS] CMD [-- ARGS...]   `scalesocket run --help` lists the flags
  scalesocket --addr 127.0.0.1:9000 cat  for example
"""
EPILOG: Final = """\
`scalesocket COMMAND --help` explains a command. A word is a command only if it comes first: `scalesocket run -- serve` runs a
program called serve.
"""
WAYS_IN: Final = f"""\
Usage: scalesocket {SYNOPSIS}

Nothing to serve. There are two ways to start:

Many apps, from a site file:
  scalesocket init                       list starter sites; `scalesocket init chat` writes one
  scalesocket serve site.toml            serve the apps of a site file

One program, without a file:
  scalesocket --addr 127.0.0.1:9000 cat  serve `cat`: each room is one process

`scalesocket --help` lists all commands.\
"""
SECTIONS: Final[Mapping[str, Sequence[click.Command]]] = {
    "Commands for a site file": (init, check, show, serve, token, schema),
    "Commands for its running server": (status, diff, reload, rooms, clients, tail, kick, stop, restart, say, drain, cluster),
    "Command for one program": (run,),
}


class Commands(click.Group):
    """The commands. Turns the errors of the package into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _unknown_flag(error) from error
        except ScalesocketError as error:
            _fail(ctx, error)
        except ExceptionGroup as group:  # from a task group
            ours, others = group.split(ScalesocketError)
            if ours is None or others is not None:
                raise
            _fail(ctx, _first(ours))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what follows the name in the usage line."""
        return [SYNOPSIS]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for."""
        for title, members in SECTIONS.items():
            with formatter.section(title):
                width = formatter.width - 6 - max(len(name) for name in self.commands)
                formatter.write_dl([(member.name or "", member.get_short_help_str(width)) for member in members], col_spacing=4)


def _unknown_flag(error: click.NoSuchOption) -> click.UsageError:
    """Suggest one flag at most. Click's own suggestions include --loop for --foo."""
    options = [name for param in (error.ctx.command.params if error.ctx else ()) for name in param.opts if name.startswith("--")]
    near = nearest_word(error.option_name, options)
    hint = f"did you mean {near}?" if near else ""
    if "--bind" in options and error.option_name in (*ADDRESS_FLAGS, "--addr"):
        hint = hint_for_flag("--port") or hint
    return click.UsageError(f"unknown flag {error.option_name!r}" + (f" ({hint})" if hint else ""), error.ctx)


def _first(group: ExceptionGroup[ScalesocketError]) -> ScalesocketError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def _fail(ctx: click.Context, error: ScalesocketError) -> NoReturn:
    if isinstance(error, ConfigError | SiteRefusedError):
        click.echo(error.render() if isinstance(error, ConfigError) else str(error), err=True)
        ctx.exit(SITE_WRONG)
    raise click.ClickException(str(error)) from error


@click.group(
    NAME,
    cls=Commands,
    help=HELP,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", prog_name=NAME, message="%(prog)s %(version)s")
def commands() -> None:
    """Group the commands; `help` above is what users see."""


for section in SECTIONS.values():
    for command in section:
        commands.add_command(command)


def main(words: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0 for success, 1 for failure, 2 for wrong usage, 78 for a wrong site file."""
    open_missing_streams()
    words = sys.argv[1:] if words is None else words
    if not words:
        click.echo(WAYS_IN, err=True)
        sys.exit(WRONG_USAGE)
    if words[0] == "help" and len(words) <= 2 and all(word in commands.commands for word in words[1:]):
        words = [*words[1:], "--help"]
    is_command = words[:1] and (words[0] in commands.commands or words[0] in ("-h", "--help", "-V", "--version"))
    if is_command:
        commands.main(list(words), prog_name=NAME)
    else:
        commands.main([run.name or "", *words], prog_name=NAME, obj=BARE)
