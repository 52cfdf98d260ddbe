"""The changes of a plan, each with the number of rooms and clients that it affects. Pure."""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from scalesocket.auth.identity import Identity
from scalesocket.auth.stricter import find_kept_out
from scalesocket.config.keys import Reload
from scalesocket.config.model import Auth, Site
from scalesocket.config.plan import Change, Plan
from scalesocket.config.render import table_record, to_toml
from scalesocket.control.messages import AffectedKey
from scalesocket.status import AppStatus, SiteStatus

LINGERING: Final = "lingering"
TARGETS: Final = ("command", "tcp", "unix")
Counts = tuple[int, int]
"""Rooms and clients."""
Identities = Callable[[str], Iterable[Identity | None]]
"""Returns the identities of the clients of an app."""
MAX_USERS: Final = 20
"""Users that are named beside the count of the clients that a rule keeps out."""


def find_affected(
    plan: Plan, old: Site, new: Site, status: SiteStatus, identities: Identities = lambda _: ()
) -> tuple[AffectedKey, ...]:
    """List the changes from `old`, whose state is `status`, to `new`: server, cluster, apps.

    `identities` are those of the connected clients, which a change of `auth` may keep out when they connect again.

    A live key affects all existing rooms. A *next* key affects only rooms without clients, which are stopped. A listener
    key affects no rooms.
    """
    apps = {app.name: [app] for app in status.apps}
    found = [_changed("server", change, _count_affected(change, status.apps)) for change in plan.server]
    found += [_changed("cluster", change, (0, 0)) for change in plan.cluster]
    for app in plan.removed:
        rooms, clients = _count_all(apps.get(app.name, []))
        found.append(AffectedKey(path=f"apps.{app.name}", kind="removed", reload=Reload.LIVE, rooms=rooms, clients=clients))
    for app in plan.added:
        record = table_record(app)
        target = next(f"{key} = {to_toml(record[key])}" for key in TARGETS if key in record)
        found.append(AffectedKey(path=f"apps.{app.name}", kind="added", reload=Reload.NEXT, new=target))
    for pair in plan.changed:
        for change in pair.changes:
            key = _changed(f"apps.{pair.name}", change, _count_affected(change, apps.get(pair.name, [])))
            found.append(_with_kept_out(key, identities(pair.name), pair.new.auth) if change.key == "auth" else key)
    return tuple(found)


def _changed(table: str, change: Change, counts: Counts) -> AffectedKey:
    path, (rooms, clients) = f"{table}.{change.key}", counts
    return AffectedKey(
        path=path, kind="changed", reload=change.reload, old=change.old_text, new=change.new_text, rooms=rooms, clients=clients
    )


def _with_kept_out(key: AffectedKey, identities: Iterable[Identity | None], auth: Auth | None) -> AffectedKey:
    users = find_kept_out(identities, auth)
    return msgspec.structs.replace(key, kept_out=len(users), kept_out_users=tuple(sorted(set(users)))[:MAX_USERS])


def _count_affected(change: Change, apps: Iterable[AppStatus]) -> Counts:
    match change.reload:
        case Reload.LIVE:
            return _count_all(apps)
        case Reload.NEXT:
            return sum(room.state == LINGERING for app in apps for room in app.rooms), 0
        case Reload.LISTENER | Reload.FIXED:
            return 0, 0


def _count_all(apps: Iterable[AppStatus]) -> Counts:
    counted = [(len(app.rooms), app.connections) for app in apps]
    return sum(rooms for rooms, _ in counted), sum(clients for _, clients in counted)
