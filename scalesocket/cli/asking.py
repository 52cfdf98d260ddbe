"""What the subcommands that ask a running server have in common."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from scalesocket.config.load import load_site
from scalesocket.config.problems import ConfigError
from scalesocket.control.address import AUTO, ControlError, control_paths
from scalesocket.control.client import ask
from scalesocket.control.messages import Answer, ReloadReport, Request, Touched
from scalesocket.status import SiteStatus

CONTROL: Final = click.option("--control", metavar="PATH", type=click.Path(path_type=Path), help="The server's control socket.")
JSON: Final = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", help="For people or for programs."
)
MARKS: Final = {"added": "+", "removed": "-", "changed": "~", "renewed": "~"}
COLOURS: Final = {"added": "green", "removed": "red", "changed": "yellow", "renewed": "yellow"}


def ask_server(site_file: Path, control: Path | None, request: Request) -> Answer:
    """Ask the server that runs a site file, at `control` or wherever its control socket may be; raises ControlError."""
    try:
        return ask([control] if control is not None else find_places(site_file), request)
    except ControlError:
        if control is None and not site_file.exists():
            raise ControlError(f"there is no file {str(site_file)!r}, and no server that runs it") from None
        raise


def find_places(site_file: Path) -> Sequence[Path]:
    """Where the control socket may be: as the file says now, or as it is without a word about it.

    The file may be broken, or may just have been edited to say another place than the server is at.
    """
    file = site_file.absolute()
    try:
        configured = load_site(file).server.control
    except ConfigError:
        configured = AUTO
    return tuple(dict.fromkeys([*control_paths(configured, file), *control_paths(AUTO, file)]))


def echo_changes(changes: Sequence[Touched]) -> None:
    """Print one line for each change: what, its class, and who notices."""
    if not changes:
        click.echo("nothing changed")
    for change in changes:
        head = click.style(f"{MARKS[change.kind]} {change.path}", fg=COLOURS[change.kind])
        click.echo(f"{head}{_values(change)}  [{change.reload}] {_reach(change)}")


def to_json(value: ReloadReport | SiteStatus) -> str:
    """The value as indented JSON; a room's metadata, which is JSON, as what it is."""
    record = msgspec.to_builtins(value, builtin_types=(bytes,))
    for app in record.get("apps", ()):
        for room in app["rooms"]:
            room["metadata"] = None if room["metadata"] is None else json.loads(room["metadata"])
    return msgspec.json.format(msgspec.json.encode(record)).decode()


def _values(change: Touched) -> str:
    match change.kind:
        case "added":
            return f": {change.new}"
        case "changed":
            return f": {change.old or 'none'} -> {change.new or 'none'}"
        case _:
            return ""


def _reach(change: Touched) -> str:
    counts = ((change.rooms, "room"), (change.clients, "client"))
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
