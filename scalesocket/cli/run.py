"""`scalesocket [FLAGS] CMD [-- ARGS...]`, also as `scalesocket run`: wrap one program."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import click
import structlog

from scalesocket import __version__
from scalesocket.cli.banner import announce
from scalesocket.cli.flags import FLAGS, nearest_word, parse_command_line
from scalesocket.cli.site_from_flags import APP_NAME, flag_of, site_from_line
from scalesocket.config.machine import check_machine
from scalesocket.config.model import Site
from scalesocket.config.problems import ConfigError, Severity
from scalesocket.logs import describe_loss, log_faults, set_log
from scalesocket.streams import unblock_output

HELP: Final = """\
Serve one program: each room, ws://HOST:PORT/ROOM, is one process of CMD.

Messages of a room's clients are lines of its standard input; each line of its output is sent to all of them. Flags may
also follow CMD; what follows -- is passed to CMD.
"""
SITE_SUFFIX: Final = ".toml"
BARE: Final = "bare"
"""The original's command line, without `run`. It serves a program that cannot start, too; its rooms are closed with 1011."""
EPILOG: Final = "To turn such a line into a site file: scalesocket init --from-cli 'scalesocket [FLAGS] CMD'"


class OriginalCommand(click.Command):
    """A command with the original's grammar instead of click's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the line; --help and --version exit here."""
        try:
            line = parse_command_line(args)
            if line.has("--help"):
                click.echo(ctx.get_help())
                ctx.exit()
            if line.has("--version"):
                click.echo(f"scalesocket {__version__}")
                ctx.exit()
            ctx.params["site"] = site_from_line(line)
        except click.UsageError as error:
            raise click.UsageError(_with_suggestion(error.format_message(), args, ctx), ctx) from error
        _refuse_site_file(line.command[0], args, ctx)
        return []

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line, with `run` only if the line has it."""
        program = ctx.find_root().command_path if ctx.obj == BARE else ctx.command_path
        formatter.write_usage(program, "[FLAGS] CMD [-- ARGS...]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the flags from their table."""
        with formatter.section("Flags"):
            formatter.write_dl([(flag.usage, flag.meaning) for flag in FLAGS])


def _with_suggestion(message: str, args: list[str], ctx: click.Context) -> str:
    """Add a suggestion to an error message if the first argument may be a misspelt command or a site file."""
    group = ctx.parent.command if ctx.parent is not None else None
    if not isinstance(group, click.Group) or not args or args[0].startswith("-"):
        return message
    if args[0].endswith(SITE_SUFFIX):
        return f"{message}; did you mean: scalesocket serve {shlex.join(args)}"
    near = nearest_word(args[0], group.commands)
    return f"no command {args[0]!r} (did you mean: scalesocket {near}?); as a program: {message}" if near else message


def _refuse_site_file(command: str, args: list[str], ctx: click.Context) -> None:
    """Raise click.UsageError if CMD is a site file: without `serve` before it, rooms could not start."""
    if command.endswith(SITE_SUFFIX) and shutil.which(command) is None:
        words = args if args[0] == command and "--bind" in args else [command]  # the one flag that both command lines have
        hint = f"did you mean: scalesocket serve {shlex.join(words)}"
        raise click.UsageError(f"{command} is a site file, not a program; {hint}", ctx)


def _spell_on_line(argv: Sequence[str]) -> str:
    """Write a command the way it is typed after `scalesocket`."""
    program, *rest = argv
    return shlex.join(["scalesocket", program, *(["--", *rest] if rest else [])])


@click.command(
    "run",
    cls=OriginalCommand,
    add_help_option=False,
    short_help="Serve one program, without a site file.",
    help=HELP,
    epilog=EPILOG,
)
@click.pass_obj
def run(form: str | None, site: Site) -> None:
    """Serve the site that the line describes. `form` is BARE if the line does not begin with `run`."""
    unblock_output(describe_loss)
    from scalesocket.supervisor import Options  # imported here, because loading it takes longer than `check` runs
    from scalesocket.supervisor import serve as serve_site

    problems = check_machine(site, spell=_spell_on_line)
    if form != BARE and any(problem.severity is Severity.ERROR for problem in problems):
        raise ConfigError([replace(problem, key=flag_of(problem.key.rpartition(".")[2])) for problem in problems])
    set_log(site.server.log.format, site.server.log.level)
    log_faults()
    for problem in problems:  # only a warning: as with the original, rooms fail when they are opened
        structlog.get_logger().warning(problem.message)
    sys.exit(serve_site(site, announce=announce, options=Options(is_oneshot=site.apps[APP_NAME].oneshot)))
