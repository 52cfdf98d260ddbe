"""`scalesocket kick`, `stop`, `restart`, `say` and `drain`: what changes rooms and clients of the running server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from scalesocket.cli.columns import cut
from scalesocket.cli.remote import CONTROL, JSON, describe_unreachable, query, to_json
from scalesocket.cli.targets import parse_room, parse_target, split_optional, split_words
from scalesocket.config.units import format_duration, parse_duration
from scalesocket.control.address import ControlError
from scalesocket.control.messages import Drain, Kick, Outcome, Restart, Say, SayOutcome, Stop

KICKED: Final = Kick(app="", room="")
"""Has the default code and reason."""
MAX_DIGITS: Final = 19
"""Digits of an id."""
DEFAULT_WAIT: Final = 30.0
"""Seconds for which `--wait` waits."""


def read_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a duration as in the site file, as seconds. Raises click.BadParameter."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


WAIT: Final = click.option("--wait", "is_waiting", is_flag=True, help="Wait until the rooms and their programs have ended.")
LIMIT: Final = click.option(
    "--timeout",
    "limit",
    metavar="DURATION",
    callback=read_duration,
    help=f"With --wait: the longest time to wait, such as 90s or 5m; {format_duration(DEFAULT_WAIT)} by default.",
)


@click.command
@click.argument("words", metavar="[SITE] APP/ROOM ID", nargs=-1)
@click.option("--user", metavar="NAME", help="Close all clients of this user, instead of the client ID.")
@click.option("--code", metavar="N", type=int, default=KICKED.code, show_default=True, help="Close code: 1000, or 4000 to 4999.")
@click.option("--reason", metavar="TEXT", default=KICKED.reason, show_default=True, help="Reason in the close frame.")
@CONTROL
@JSON
@click.pass_context
def kick(
    ctx: click.Context,
    words: Sequence[str],
    user: str | None,
    code: int,
    reason: str,
    control: Path | None,
    form: str,
) -> None:
    """Close a client of a room.

    `scalesocket clients` lists the ids. `*` in ROOM stands for any characters.
    """
    if user is not None and len(words) > 1 and words[-1].isdecimal():
        raise click.UsageError("give either ID or --user, not both", ctx)
    site_file, rest = split_words(ctx, words, 2 if user is None else 1)
    app, room = parse_room(ctx, rest[0])
    member = None if user is not None else _parse_id(ctx, rest[1])
    outcome = query(site_file, control, Kick(app=app, room=room, id=member, user=user, code=code, reason=reason), Outcome)
    _echo(outcome, form, f"kicked {_count(outcome.clients, 'client')}")
    _check_reached(outcome)


@click.command
@click.argument("words", metavar="[SITE] APP/ROOM", nargs=-1)
@WAIT
@LIMIT
@CONTROL
@JSON
@click.pass_context
def stop(
    ctx: click.Context, words: Sequence[str], is_waiting: bool, limit: float | None, control: Path | None, form: str
) -> None:
    """Close the clients of a room with 1001 and stop its program.

    The next client opens the room again. Clients are closed over at most drain_timeout. `*` in ROOM stands for any characters.
    """
    site_file, (word,) = split_words(ctx, words, 1)
    app, room = parse_room(ctx, word)
    wait = _read_wait(ctx, limit, is_waiting=is_waiting)
    _echo_closing(query(site_file, control, Stop(app=app, room=room, wait=wait), Outcome), form, ("stopping", "stopped"), wait)


@click.command
@click.argument("words", metavar="[SITE] APP[/ROOM]", nargs=-1)
@WAIT
@LIMIT
@CONTROL
@JSON
@click.pass_context
def restart(
    ctx: click.Context, words: Sequence[str], is_waiting: bool, limit: float | None, control: Path | None, form: str
) -> None:
    """Restart a room, or all rooms of an app.

    Clients are closed with 1012, over at most drain_timeout, so that they connect again and open new rooms. `*` in ROOM stands
    for any characters.
    """
    site_file, (word,) = split_words(ctx, words, 1)
    target = parse_target(ctx, word)
    wait = _read_wait(ctx, limit, is_waiting=is_waiting)
    request = Restart(app=target.app, room=target.room, wait=wait)
    _echo_closing(query(site_file, control, request, Outcome), form, ("restarting", "restarted"), wait)


@click.command
@click.argument("words", metavar="[SITE] APP/ROOM TEXT", nargs=-1)
@CONTROL
@JSON
@click.pass_context
def say(ctx: click.Context, words: Sequence[str], control: Path | None, form: str) -> None:
    """Send TEXT to the clients of a room, as its program would.

    TEXT goes through the app's routing and into the room's history. With routing "json" it may have _to and the other keys of
    a program. `*` in ROOM stands for any characters.
    """
    site_file, (word, text) = split_words(ctx, words, 2)
    app, room = parse_room(ctx, word)
    outcome = query(site_file, control, Say(app=app, room=room, text=text), SayOutcome)
    dropped = f", {outcome.dropped} dropped (the log says why)" if outcome.dropped else ""
    _echo(outcome, form, f"{_count(outcome.delivered, 'message')} sent in {_count(outcome.rooms, 'room')}{dropped}")
    _check_reached(outcome)


@click.command
@click.argument("words", metavar="[SITE] [APP]", nargs=-1)
@WAIT
@LIMIT
@CONTROL
@JSON
@click.pass_context
def drain(
    ctx: click.Context, words: Sequence[str], is_waiting: bool, limit: float | None, control: Path | None, form: str
) -> None:
    """Admit no more clients to an app, and close those present.

    Clients are closed with 1001 over at most drain_timeout, then the rooms are stopped. New ones get 503. An app stays drained
    until it is edited in the site file or the server is started again. Without APP the whole site is drained until then, and
    /ready answers 503. A single word is a SITE if it ends with .toml or names a file.
    """
    site_file, app = split_optional(ctx, words)
    if app is not None and "/" in app:
        raise click.UsageError(f"{app!r} is not APP (to close one room: scalesocket stop)", ctx)
    wait = _read_wait(ctx, limit, is_waiting=is_waiting)
    _echo_closing(query(site_file, control, Drain(app=app, wait=wait), Outcome), form, ("draining", "drained"), wait)


def _parse_id(ctx: click.Context, word: str) -> int:
    if not word.isdecimal() or len(word) > MAX_DIGITS:
        raise click.UsageError(
            f"{cut(word, 40)!r} is not the id of a client (scalesocket clients lists them; --user takes a name)", ctx
        )
    return int(word)


def _read_wait(ctx: click.Context, limit: float | None, *, is_waiting: bool) -> float | None:
    if not is_waiting and limit is not None:
        raise click.UsageError("--timeout limits --wait, which is not given", ctx)
    return (DEFAULT_WAIT if limit is None else limit) if is_waiting else None


def _echo_closing(outcome: Outcome, form: str, verbs: tuple[str, str], wait: float | None) -> None:
    """Print what was begun, or ended. Raises ControlError if it has not ended within `wait` seconds, or not everywhere."""
    began, ended = verbs
    _echo(outcome, form, f"{began if wait is None or outcome.pending else ended} {_describe(outcome)}")
    if wait is not None and outcome.pending:
        left = f"{_count(outcome.pending, 'room')} {'has' if outcome.pending == 1 else 'have'} not ended"
        where = f"; {describe_unreachable(outcome.unreachable)}" if outcome.unreachable else ""
        hint = "the server goes on; --timeout waits longer"
        raise ControlError(f"not done within {format_duration(wait)}: {left} yet ({hint}){where}")
    _check_reached(outcome)


def _check_reached(outcome: Outcome | SayOutcome) -> None:
    """Raise ControlError if nodes of the cluster were not reached."""
    if outcome.unreachable:
        raise ControlError(f"not done on all nodes; {describe_unreachable(outcome.unreachable)}")


def _echo(outcome: Outcome | SayOutcome, form: str, text: str) -> None:
    click.echo(to_json(outcome) if form == "json" else text)


def _describe(outcome: Outcome) -> str:
    return f"{_count(outcome.rooms, 'room')} with {_count(outcome.clients, 'client')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
