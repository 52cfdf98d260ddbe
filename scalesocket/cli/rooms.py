"""`scalesocket rooms` and `scalesocket clients`: lists of what is open."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import click

from scalesocket.cli.columns import format_table, terminal_width
from scalesocket.cli.remote import CONTROL, JSON, query, to_json
from scalesocket.cli.targets import Target, parse_target, split_optional
from scalesocket.control.messages import ClientEntry, Clients, RoomEntry, Rooms
from scalesocket.logs import printable

ROOM_HEAD: Final = ("APP", "ROOM", "STATE", "CLIENTS", "PID", "IN", "OUT", "DROPPED")
CLIENT_HEAD: Final = ("APP", "ROOM", "ID", "USER", "ROLES", "ADDRESS", "IDLE", "UNSENT")
Entry = TypeVar("Entry", RoomEntry, ClientEntry)
UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"))


@click.command
@click.argument("words", metavar="[SITE] [APP[/ROOM]]", nargs=-1)
@CONTROL
@JSON
@click.pass_context
def rooms(ctx: click.Context, words: Sequence[str], control: Path | None, form: str) -> None:
    """List the open rooms of the running server.

    Without APP, those of all apps; `*` in ROOM stands for any characters. IN and OUT count the messages of clients and those to
    clients. A single word is a SITE if it ends with .toml or names a file.
    """
    site_file, target = _read(ctx, words)
    found = query(site_file, control, Rooms(app=target and target.app, room=target and target.room), list[RoomEntry])
    _print(found, form, head=ROOM_HEAD, row=_room_row, nothing="no open rooms")


@click.command
@click.argument("words", metavar="[SITE] [APP[/ROOM]]", nargs=-1)
@CONTROL
@JSON
@click.pass_context
def clients(ctx: click.Context, words: Sequence[str], control: Path | None, form: str) -> None:
    """List the clients of the running server.

    Without APP, those of all apps; `*` in ROOM stands for any characters. IDLE is the time since a client's last message, UNSENT
    the bytes that wait to be sent to it. A single word is a SITE if it ends with .toml or names a file.
    """
    site_file, target = _read(ctx, words)
    found = query(site_file, control, Clients(app=target and target.app, room=target and target.room), list[ClientEntry])
    _print(found, form, head=CLIENT_HEAD, row=_client_row, nothing="no clients")


def format_seconds(seconds: float) -> str:
    """Return a duration in its largest unit: `0s`, `59s`, `3m`, `2h`, `1d`."""
    return next((f"{int(seconds // size)}{unit}" for size, unit in UNITS if seconds >= size), f"{int(seconds)}s")


def _read(ctx: click.Context, words: Sequence[str]) -> tuple[Path, Target | None]:
    site_file, word = split_optional(ctx, words)
    return site_file, None if word is None else parse_target(ctx, word)


def _print(
    found: Sequence[Entry], form: str, *, head: Sequence[str], row: Callable[[Entry], Sequence[str]], nothing: str
) -> None:
    """Print entries as JSON or as a table; `nothing` if the table were empty."""
    if form == "json":
        click.echo(to_json(found))
    elif not found:
        click.echo(nothing)
    else:
        click.echo("\n".join(format_table(head, [*map(row, found)], elastic="ROOM", width=terminal_width())))


def _room_row(room: RoomEntry) -> list[str]:
    pid = "-" if room.pid is None else str(room.pid)
    counts = (room.messages_in, room.messages_out, room.messages_dropped)
    return [room.app, printable(room.room), room.state, str(room.clients), pid, *map(str, counts)]


def _client_row(client: ClientEntry) -> list[str]:
    user = "-" if client.user is None else printable(client.user)
    roles, idle = ",".join(client.roles) or "-", format_seconds(client.idle)
    return [client.app, printable(client.room), str(client.id), user, roles, client.address or "-", idle, str(client.unsent)]
