"""`scalesocket rooms` and `scalesocket clients`: lists of what is open."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import click
import msgspec

from scalesocket.cli.columns import format_table, terminal_width
from scalesocket.cli.remote import CONTROL, JSON, query, to_json, warn_unreachable
from scalesocket.cli.targets import Target, parse_target, split_optional
from scalesocket.control.lists import ClientEntry, ClientList, RoomEntry, RoomList
from scalesocket.control.messages import Clients, Rooms
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

    In a cluster the rooms of all nodes are listed, each with its NODE. Nodes that could not be asked are named on standard error.
    """
    site_file, target = _read(ctx, words)
    found = query(site_file, control, Rooms(app=target and target.app, room=target and target.room), RoomList)
    _print(found.rooms, form, head=ROOM_HEAD, row=_room_row, nothing="no open rooms")
    warn_unreachable(found.unreachable, "rooms may be missing")


@click.command
@click.argument("words", metavar="[SITE] [APP[/ROOM]]", nargs=-1)
@CONTROL
@JSON
@click.pass_context
def clients(ctx: click.Context, words: Sequence[str], control: Path | None, form: str) -> None:
    """List the clients of the running server.

    Without APP, those of all apps; `*` in ROOM stands for any characters. IDLE is the time since a client's last message, UNSENT
    the bytes that wait to be sent to it. A single word is a SITE if it ends with .toml or names a file.

    In a cluster the clients of all nodes are listed, each with the NODE of its room, whose number ID is. Nodes that could not be
    asked are named on standard error.
    """
    site_file, target = _read(ctx, words)
    found = query(site_file, control, Clients(app=target and target.app, room=target and target.room), ClientList)
    _print(found.clients, form, head=CLIENT_HEAD, row=_client_row, nothing="no clients")
    warn_unreachable(found.unreachable, "clients may be missing")


def format_seconds(seconds: float) -> str:
    """Return a duration in its largest unit: `0s`, `59s`, `3m`, `2h`, `1d`."""
    return next((f"{int(seconds // size)}{unit}" for size, unit in UNITS if seconds >= size), f"{int(seconds)}s")


def _read(ctx: click.Context, words: Sequence[str]) -> tuple[Path, Target | None]:
    site_file, word = split_optional(ctx, words)
    return site_file, None if word is None else parse_target(ctx, word)


def _print(found: Sequence[Entry], form: str, *, head: Sequence[str], row: Callable[[Entry], list[str]], nothing: str) -> None:
    """Print entries as JSON or as a table; `nothing` if the table were empty."""
    if form == "json":
        click.echo(to_json(found))
    elif not found:
        click.echo(nothing)
    else:
        rows = [*map(row, found)]
        if any(entry.node is not msgspec.UNSET for entry in found):
            at: int = head.index("ROOM") + 1
            head = [*head[:at], "NODE", *head[at:]]
            for cells, entry in zip(rows, found, strict=True):
                cells.insert(at, "-" if entry.node is msgspec.UNSET else printable(entry.node))
        click.echo("\n".join(format_table(head, rows, elastic="ROOM", width=terminal_width())))


def _room_row(room: RoomEntry) -> list[str]:
    pid = "-" if room.pid is None else str(room.pid)
    counts = (room.messages_in, room.messages_out, room.messages_dropped)
    return [room.app, printable(room.room), room.state, str(room.clients), pid, *map(str, counts)]


def _client_row(client: ClientEntry) -> list[str]:
    user = "-" if client.user is None else printable(client.user)
    roles, idle = ",".join(client.roles) or "-", format_seconds(client.idle)
    return [client.app, printable(client.room), str(client.id), user, roles, client.address or "-", idle, str(client.unsent)]
