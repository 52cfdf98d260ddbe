"""What the commands for a running server share: how to reach it, and how to print its answers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import click
import msgspec

from scalesocket.config.load import load_site
from scalesocket.config.problems import ConfigError
from scalesocket.control.address import AUTO, ControlError, control_paths
from scalesocket.control.client import TIMEOUT, open_stream, send_request
from scalesocket.control.lists import ALL_OTHERS
from scalesocket.control.messages import AffectedKey, Outcome, Request, wait_of
from scalesocket.logs import printable
from scalesocket.status import SiteStatus

Result = TypeVar("Result")

CONTROL: Final = click.option(
    "--control",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The server's control socket; by default it is found from the site file.",
)
JSON: Final = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)
MARKS: Final = {"added": "+", "removed": "-", "changed": "~", "renewed": "~"}
COLOURS: Final = {"added": "green", "removed": "red", "changed": "yellow", "renewed": "yellow"}


def query(site_file: Path, control: Path | None, request: Request, result: type[Result]) -> Result:
    """Send a request to the server of a site file, at `control` or at its usual control socket, and return its result.

    Raises ControlError.
    """
    timeout = TIMEOUT + (wait_of(request) or 0)
    try:
        return send_request([control] if control is not None else find_sockets(site_file), request, result, timeout)
    except ControlError:
        _check_file(site_file, control)
        raise


@contextmanager
def follow(site_file: Path, control: Path | None, request: Request) -> Iterator[tuple[Outcome, Iterator[bytes]]]:
    """Send a request whose answer goes on, as `query` does; yield it and its further lines. Raises ControlError."""
    try:
        with open_stream([control] if control is not None else find_sockets(site_file), request) as stream:
            yield stream
    except ControlError:
        _check_file(site_file, control)
        raise


def _check_file(site_file: Path, control: Path | None) -> None:
    if control is None and not site_file.exists():
        raise ControlError(f"{site_file}: no such file, and no server runs it") from None


def find_sockets(site_file: Path) -> Sequence[Path]:
    """List the paths where the control socket may be: the one that the file configures, then the default ones.

    The file may be broken, or may have been edited since the server opened its socket.
    """
    file = site_file.absolute()
    try:
        configured = load_site(file).server.control
    except ConfigError:
        configured = AUTO
    return tuple(dict.fromkeys([*control_paths(configured, file), *control_paths(AUTO, file)]))


def warn_unreachable(nodes: Sequence[str], effect: str) -> None:
    """Print which nodes of a cluster were not reached, and the effect of that, to standard error."""
    if nodes:
        click.echo(f"{click.style('warning:', fg='yellow')} {effect}; {describe_unreachable(nodes)}", err=True)


def describe_unreachable(nodes: Sequence[str]) -> str:
    """Say which nodes of a cluster were not reached, and where to look. Empty if all were."""
    if not nodes:
        return ""
    if ALL_OTHERS in nodes:
        return "the engine does not answer, so only this node was asked"
    return f"not reached: {', '.join(map(printable, nodes))} (scalesocket cluster status shows why)"


def echo_changes(changes: Sequence[AffectedKey]) -> None:
    """Print one line per change: the key, its class, and how many rooms and clients it affects."""
    if not changes:
        click.echo("nothing changed")
    for change in changes:
        head = click.style(f"{MARKS[change.kind]} {change.path}", fg=COLOURS[change.kind])
        click.echo(f"{head}{_values(change)}  [{change.reload}] {_affected(change)}")


def format_warnings(warnings: Sequence[str]) -> Iterator[str]:
    """Yield a line for each warning of a reload."""
    for warning in warnings:
        yield f"{click.style('warning:', fg='yellow')} {warning}"


def to_json(value: object) -> str:
    """Return a value as indented JSON; a room's metadata in a status, which is JSON text, becomes part of it."""
    record = msgspec.to_builtins(value, builtin_types=(bytes,))
    if isinstance(value, SiteStatus):
        for app in record["apps"]:
            for room in app["rooms"]:
                room["metadata"] = None if room["metadata"] is None else json.loads(room["metadata"])
    return msgspec.json.format(msgspec.json.encode(record)).decode()


def _values(change: AffectedKey) -> str:
    match change.kind:
        case "added":
            return f": {change.new}"
        case "changed":
            return f": {change.old or 'none'} -> {change.new or 'none'}"
        case _:
            return ""


def _affected(change: AffectedKey) -> str:
    counts = ((change.rooms, "room"), (change.clients, "client"))
    text = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    if change.kept_out:
        text += f"; would not be let in again: {change.kept_out} ({', '.join(change.kept_out_users)})"
    return text
