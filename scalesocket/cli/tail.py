"""`scalesocket tail`: what a room receives and sends, while it happens."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from scalesocket.cli.columns import cut, terminal_width
from scalesocket.cli.remote import CONTROL, JSON, follow, warn_unreachable
from scalesocket.cli.targets import parse_room, split_words
from scalesocket.control.address import ControlError
from scalesocket.control.messages import Tail, TailEvent
from scalesocket.logs import printable

ENDED: Final = "ended"
LOST: Final = "lost"


@click.command
@click.argument("words", metavar="[SITE] APP/ROOM", nargs=-1)
@CONTROL
@JSON
@click.pass_context
def tail(ctx: click.Context, words: Sequence[str], control: Path | None, form: str) -> None:
    """Show the messages of a room while they pass.

    Ends with the room, or with Ctrl-C. `in` is a message of a client, `out` one of the program. At most 1,000 messages per
    second and 4 KiB of each are shown; the room never waits. `*` in ROOM stands for any characters: the rooms that are open now.

    In a cluster it shows rooms of all nodes. Nodes that could not be asked are named on standard error.
    """
    site_file, (word,) = split_words(ctx, words, 1)
    app, room = parse_room(ctx, word)
    width, last = terminal_width(), ""
    try:
        with follow(site_file, control, Tail(app=app, room=room)) as (outcome, lines):
            warn_unreachable(outcome.unreachable, "rooms may be missing")
            for line in lines:
                event = msgspec.json.decode(line, type=TailEvent)
                last = event.event
                click.echo(line.decode().rstrip("\n") if form == "json" else cut(format_event(event), width))
    except KeyboardInterrupt:
        return
    if last not in (ENDED, LOST):
        raise ControlError("the server closed the connection")


def format_event(event: TailEvent) -> str:
    """Return a line for people, such as `12:00:01 chat/lobby  in  5  hello`."""
    time = datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S")
    if event.event == "left_out":
        return f"{time} {event.count} messages left out: they came too fast"
    rooms = f"{event.count} room{'' if event.count == 1 else 's'}"
    if event.event == LOST and event.node is not None:
        return f"{time} node {printable(event.node)} is not reached any more: {rooms} left out"
    if event.event == LOST:
        return f"{time} a worker process ended, and {rooms} with it"
    place = f"{time} {event.app}/{printable(event.room or '')}  {event.event}"
    if event.event == ENDED:
        return place
    payload = printable(event.text) if event.text is not None else f"base64 {event.base64}"
    more = f" … ({event.size} bytes)" if event.is_truncated else ""
    return f"{place}  {_peers(event)}  {payload}{more}"


def _peers(event: TailEvent) -> str:
    """Return the sender, or the recipients."""
    if event.event == "in":
        return str(event.client)
    to = "all" if event.to is None else ",".join(map(str, event.to)) or "nobody"
    return to if event.exclude is None else f"{to} but {','.join(map(str, event.exclude))}"
