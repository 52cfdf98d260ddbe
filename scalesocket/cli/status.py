"""`scalesocket status [SITE]`."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from scalesocket.cli.columns import format_table, terminal_width
from scalesocket.cli.remote import CONTROL, JSON, format_warnings, query, to_json
from scalesocket.cli.site_file import SITE
from scalesocket.control.messages import Status
from scalesocket.logs import printable
from scalesocket.status import AppStatus, OwnNodeStatus, SiteStatus, WorkerStatus

APP_HEAD: Final = ("APP", "ROOMS", "CLIENTS", "STARTS", "FAILED", "CRASHED", "TARGET")
EXIT_HEAD: Final = ("APP", "LAST EXIT", "AT", "ROOM", "LAST LINE OF STDERR")
WORKER_HEAD: Final = ("WORKER", "PID", "STATE", "ROOMS", "CLIENTS", "RESTARTS", "SINCE")
ROOM_HEAD: Final = ("APP", "ROOM", "STATE", "CLIENTS", "PID")


@click.command
@SITE
@click.option("--rooms", is_flag=True, help="List every room, too.")
@CONTROL
@JSON
def status(site_file: Path, rooms: bool, control: Path | None, form: str) -> None:
    """Show the apps, rooms and clients of the running server.

    Also shows why the newest edit of SITE (default: ./site.toml) was not applied, if it was not. STARTS counts started
    programs, FAILED those that could not be started, CRASHED those that ended by failure. LAST EXIT is the exit status
    or the signal of the program that ended last. With `server.workers`, the worker processes come first. A node of a cluster
    shows its own rooms and clients, and its lease.
    """
    found = query(site_file, control, Status(), SiteStatus)
    click.echo(to_json(found) if form == "json" else "\n".join(format_status(found, with_rooms=rooms, width=terminal_width())))


def format_status(site: SiteStatus, *, with_rooms: bool, width: int | None = None) -> Iterable[str]:
    """Yield a few lines, then tables of at most `width` columns (None: no limit)."""
    state = "draining" if site.is_draining else "starting" if site.is_starting else "serving"
    applied = _format_time(site.applied_at)
    clients = f"{site.connections} client{'' if site.connections == 1 else 's'}"
    yield f"{state}, generation {site.generation} since {applied}, {clients}"
    if site.cluster is not None:
        yield _describe_node(site.cluster)
    if site.last_error is not None:
        yield click.style("the newest edit was not applied:", fg="red")
        yield from (f"  {line}" for line in site.last_error.splitlines())
    yield from format_warnings(site.warnings)
    if drained := [app.name for app in site.apps if app.is_drained]:
        yield f"drained, without new clients until an edit of the app: {', '.join(drained)}"
    yield ""
    if site.workers:
        yield from format_table(WORKER_HEAD, [_worker_row(worker) for worker in site.workers], elastic="SINCE", width=width)
        yield ""
    yield from format_table(APP_HEAD, [_app_row(app) for app in site.apps], elastic="TARGET", width=width)
    if any(app.last_exit is not None for app in site.apps):
        yield ""
        yield from format_table(EXIT_HEAD, list(_exit_rows(site.apps)), elastic=EXIT_HEAD[-1], width=width)
    if with_rooms:
        yield ""
        rows = [
            [app.name, printable(room.name), room.state, str(room.connections), "" if room.pid is None else str(room.pid)]
            for app in site.apps
            for room in app.rooms
        ]
        yield from format_table(ROOM_HEAD, rows, elastic="ROOM", width=width)


def _describe_node(node: OwnNodeStatus) -> str:
    """Say in one line what is to be known of a node: what it does, what its lease is, and who waits."""
    lease = f"lease {node.lease_seconds_left:.1f} s" if node.lease_seconds_left > 0 else "no lease"
    parts = [lease] if node.is_engine_up else [f"{lease}, and the engine does not answer"]
    if node.is_drained:
        parts.append("drained: opens no rooms until it is started again")
    if node.held:
        parts.append(f"{node.held} client{'' if node.held == 1 else 's'} waiting for a room")
    return f"node {node.node} of cluster {node.cluster}: {'; '.join(parts)}"


def _worker_row(worker: WorkerStatus) -> list[str]:
    pid, since = worker.pid, worker.since
    return [
        str(worker.index),
        "-" if pid is None else str(pid),
        worker.state,
        *map(str, (worker.rooms, worker.connections, worker.restarts)),
        "-" if since is None else _format_time(since),
    ]


def _app_row(app: AppStatus) -> list[str]:
    if not app.has_rooms and not app.rooms:
        return [app.name, *["-"] * (len(APP_HEAD) - 2), app.target]
    return [
        app.name,
        str(len(app.rooms)),
        str(app.connections),
        str(app.backend_starts),
        str(app.backend_failures),
        str(app.backend_crashes),
        app.target,
    ]


def _exit_rows(apps: Iterable[AppStatus]) -> Iterable[list[str]]:
    for app in apps:
        if (last := app.last_exit) is not None:
            yield [app.name, last.how, _format_time(last.at), printable(last.room), printable(last.line or "")]


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
