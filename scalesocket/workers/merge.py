"""Merges the answers of all workers: statuses, lists, outcomes, errors. Pure."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import msgspec

from scalesocket.config.describe import describe_target
from scalesocket.config.model import App
from scalesocket.control.lists import ClientEntry, ClientList, RoomEntry, RoomList
from scalesocket.control.messages import Outcome, Request, SayOutcome
from scalesocket.operations.lookup import Certainty, NotFoundError, OperationError
from scalesocket.operations.table import name_of
from scalesocket.overview import RoomsSummary, find_fullest
from scalesocket.status import AppStatus, Counts, SiteStatus, WorkerStatus
from scalesocket.workers.link import LinkError, LinkLostError
from scalesocket.workers.site_messages import Missing, Ran

Entry = TypeVar("Entry", RoomEntry, ClientEntry)
NO_WORKER: Final = "no worker is running at the moment (try again)"


# --- Status


def merge_status(
    base: SiteStatus,
    apps: Sequence[App],
    parts: Sequence[SiteStatus],
    *,
    ended: SiteStatus | None,
    workers: Sequence[WorkerStatus],
) -> SiteStatus:
    """Add the statuses of workers to `base`, the supervisor's own, which has no apps.

    `apps`: those of the site, in its order. Apps that only workers have, for a moment during an edit, follow. `ended`: totals of
    processes that have ended, for the apps of the site.
    """
    by_name: dict[str, list[AppStatus]] = {app.name: [] for app in apps}
    for part in (*parts, *([] if ended is None else [only_apps(ended, by_name)])):
        for status in part.apps:
            by_name.setdefault(status.name, []).append(status)
    for app in apps:
        if not by_name[app.name]:
            by_name[app.name].append(describe_unopened(app))
    all_parts = [base, *parts, *([] if ended is None else [ended])]
    return replace(
        base,
        apps=tuple(map(merge_apps, by_name.values())),
        connections=sum(part.connections for part in parts),
        is_draining=base.is_draining or any(part.is_draining for part in parts),
        refusals=add_counts(part.refusals for part in all_parts),
        workers=tuple(workers),
    )


def merge_apps(apps: Sequence[AppStatus]) -> AppStatus:
    """Add up one app in several workers. Its settings are those of the first."""
    counts = Counts()
    for app in apps:
        counts.add(app.counts)
    exits = [app.last_exit for app in apps if app.last_exit is not None]
    return replace(
        apps[0],
        rooms=tuple(room for app in apps for room in app.rooms),
        counts=counts,
        backend_exits=add_counts(app.backend_exits for app in apps),
        last_exit=max(exits, key=lambda end: end.at, default=None),
        refusals=add_counts(app.refusals for app in apps),
        is_drained=any(app.is_drained for app in apps),
        **{
            name: sum(getattr(app, name) for app in apps)
            for name in ("connections", "rooms_total", "backend_starts", "backend_failures", "backend_crashes")
        },
    )


def describe_unopened(app: App) -> AppStatus:
    """Return the status of an app while no worker has it."""
    return AppStatus(
        name=app.name,
        mount=app.mount,
        target=describe_target(app),
        has_rooms=app.has_rooms,
        rooms=(),
        connections=0,
        rooms_total=0,
        counts=Counts(),
        backend_starts=0,
        backend_failures=0,
        backend_exits={},
        refusals={},
    )


def only_apps(status: SiteStatus, names: Collection[str]) -> SiteStatus:
    """Return a status without the apps that are not named."""
    return replace(status, apps=tuple(app for app in status.apps if app.name in names))


def fold_ended(ended: SiteStatus | None, status: SiteStatus) -> SiteStatus:
    """Add the totals of a process that has ended to those of its predecessors. Its rooms have ended with it."""
    apps = tuple(replace(app, rooms=(), connections=0, is_drained=False) for app in status.apps)
    if ended is None:
        return replace(status, apps=apps, connections=0, is_draining=False)
    by_name = {app.name: app for app in ended.apps}
    by_name |= {app.name: merge_apps([by_name[app.name], app]) if app.name in by_name else app for app in apps}
    return replace(ended, apps=tuple(by_name.values()), refusals=add_counts([ended.refusals, status.refusals]))


def add_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up counters by name."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def merge_summaries(apps: Sequence[str], parts: Sequence[Mapping[str, RoomsSummary]], shown: int) -> dict[str, RoomsSummary]:
    """Add up the summaries of each app, and return the fullest rooms of all workers."""
    merged = {}
    for app in apps:
        found = [part[app] for part in parts if app in part]
        merged[app] = RoomsSummary(
            number=sum(part.number for part in found),
            clients=sum(part.clients for part in found),
            shown=find_fullest((room for part in found for room in part.shown), shown),
        )
    return merged


# --- Operations

Results = Sequence[Any]
"""The results of one operation in several workers, all of the type that the table says."""


def merge_rooms(results: Results) -> RoomList:
    """Put lists of rooms together, app by app."""
    return RoomList(rooms=_order([entry for result in results for entry in result.rooms]))


def merge_clients(results: Results) -> ClientList:
    """Put lists of clients together, app by app; all clients of a room are in one of them."""
    return ClientList(clients=_order([entry for result in results for entry in result.clients]))


def _order(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    order = {app: number for number, app in enumerate(dict.fromkeys(entry.app for entry in entries))}
    return tuple(sorted(entries, key=lambda entry: order[entry.app]))


def add_outcomes(outcomes: Results) -> Outcome:
    """Add up what workers have affected, and the rooms that have not ended."""
    pending = [outcome.pending for outcome in outcomes if outcome.pending is not None]
    return Outcome(
        rooms=sum(outcome.rooms for outcome in outcomes),
        clients=sum(outcome.clients for outcome in outcomes),
        pending=sum(pending) if pending else None,
        unreachable=tuple(node for outcome in outcomes for node in outcome.unreachable),
    )


def add_say_outcomes(outcomes: Results) -> SayOutcome:
    """Add up what became of a record."""
    return SayOutcome(
        rooms=sum(outcome.rooms for outcome in outcomes),
        delivered=sum(outcome.delivered for outcome in outcomes),
        dropped=sum(outcome.dropped for outcome in outcomes),
    )


MERGES: Final[Mapping[str, Callable[[Results], Any]]] = {
    "rooms": merge_rooms,
    "clients": merge_clients,
    "kick": add_outcomes,
    "stop": add_outcomes,
    "restart": add_outcomes,
    "say": add_say_outcomes,
    "drain": add_outcomes,
    "tail": add_outcomes,
}
"""How the results of workers become one, by operation. `status`, `diff` and `reload` are no sums of those."""


def merge_answers(request: Request, answers: Sequence[Ran | LinkError], decode: Callable[[msgspec.Raw], Any]) -> Any:
    """Return the result of all workers. `answers` by index; `decode` reads the result of one.

    Raises NotFoundError only if no worker has what the request names, and OperationError if one of them failed; then its text
    says what the others have done. A worker that has ended has no rooms.
    """
    done = [decode(ran.result) for ran in answers if isinstance(ran, Ran) and ran.is_done]
    merged = MERGES[name_of(request)](done) if done else None
    if failures := find_failures(answers):
        raise OperationError(f"{failures}{'' if merged is None else describe_done(merged)}")
    if merged is not None:
        return merged
    lost = [index for index, answer in enumerate(answers) if isinstance(answer, LinkLostError)]
    missing = [ran.missing for ran in answers if isinstance(ran, Ran) and ran.missing is not None]
    raise merge_missing(missing, lost) if missing else OperationError(NO_WORKER)


def find_failures(answers: Sequence[Ran | LinkError]) -> str:
    """Return the errors of workers; with their numbers, unless all that could do it failed alike. Empty if none failed."""
    by_text: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if isinstance(answer, Ran) and answer.error is not None:
            by_text.setdefault(answer.error, []).append(index)
        elif isinstance(answer, LinkError) and not isinstance(answer, LinkLostError):
            by_text.setdefault(str(answer), [])  # its text names the worker
    is_done = any(isinstance(answer, Ran) and answer.is_done for answer in answers)
    if len(by_text) == 1 and not is_done:
        return next(iter(by_text))
    return "; ".join(f"worker {', '.join(map(str, at))}: {text}" if at else text for text, at in by_text.items())


def describe_done(merged: object) -> str:
    """Say what an operation has done in spite of failures; empty for one that changes nothing."""
    match merged:
        case Outcome(rooms=rooms):
            return f" (done in the other workers: {rooms} room{'' if rooms == 1 else 's'})"
        case SayOutcome(rooms=rooms):
            return f" (said in the other workers: {rooms} room{'' if rooms == 1 else 's'})"
        case _:
            return ""


def merge_missing(missing: Sequence[Missing], lost: Sequence[int]) -> NotFoundError:
    """Return the error of the workers that have most of what was named, with the nearest name that any of them has.

    `lost`: workers that did not answer, because they have just ended.
    """
    best = max(missing, key=lambda one: one.certainty)
    near = [one.near for one in missing if one.near is not None and one.certainty == best.certainty]
    found = next(iter(get_close_matches(best.word, near, n=1)), None)
    text = best.text
    if lost:
        who, whose = ("worker", "has ended, and its") if len(lost) == 1 else ("workers", "have ended, and their")
        text = f"{text} ({who} {', '.join(map(str, lost))} {whose} rooms, too)"
    return NotFoundError(text, certainty=Certainty(best.certainty), word=best.word, near=found)
