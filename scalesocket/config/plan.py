"""The difference between two sites. Pure; the gateway applies a plan, and `diff` prints it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from scalesocket.config.keys import Reload, keys_of
from scalesocket.config.model import App, Cluster, Server, Site
from scalesocket.config.render import changed_records, table_record, to_toml

DEPENDENT: Final = frozenset({"join_message", "leave_message"})
"""Live keys whose default depends on `routing`, which applies to new rooms only, and on `auth`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A key whose value differs."""

    key: str
    """A key of the table, such as `routing`. An inner table, such as `limits`, is one key."""
    reload: Reload
    old: object
    new: object
    old_text: str | None
    """As TOML, with secrets masked; None if not set."""
    new_text: str | None

    def __str__(self) -> str:
        """`routing: "broadcast" -> "json" (next)`."""
        return f"{self.key}: {self.old_text or 'none'} -> {self.new_text or 'none'} ({self.reload})"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppChange:
    """An app that both sites have, with different settings."""

    old: App
    new: App
    changes: Sequence[Change]

    @property
    def name(self) -> str:
        """The app's name."""
        return self.new.name

    @property
    def is_live_only(self) -> bool:
        """Whether every change applies to running rooms, so that no room is outdated."""
        return all(change.reload is Reload.LIVE for change in self.changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The changes from one site to another."""

    added: Sequence[App] = field(default=())
    removed: Sequence[App] = field(default=())
    changed: Sequence[AppChange] = field(default=())
    server: Sequence[Change] = field(default=())
    cluster: Sequence[Change] = field(default=())

    @property
    def is_empty(self) -> bool:
        """Whether the sites are equal."""
        return not (self.added or self.removed or self.changed or self.server or self.cluster)

    def __str__(self) -> str:
        """Return one line for a log: `added pong; changed chat (max_clients); server: log`."""
        parts = []
        if self.added:
            parts.append("added " + ", ".join(app.name for app in self.added))
        if self.removed:
            parts.append("removed " + ", ".join(app.name for app in self.removed))
        if self.changed:
            names = (f"{app.name} ({', '.join(change.key for change in app.changes)})" for app in self.changed)
            parts.append("changed " + ", ".join(names))
        if self.server:
            parts.append("server: " + ", ".join(change.key for change in self.server))
        if self.cluster:
            parts.append("cluster: " + ", ".join(change.key for change in self.cluster))
        return "; ".join(parts) or "nothing changed"


def make_plan(old: Site, new: Site) -> Plan:
    """Compare two sites, without their paths. Apps are in the order of the new site, removed ones in that of the old."""
    changed = []
    for name, app in new.apps.items():
        if name in old.apps and (changes := find_changes(old.apps[name], app)):
            changed.append(AppChange(old=old.apps[name], new=app, changes=changes))
    return Plan(
        added=tuple(app for name, app in new.apps.items() if name not in old.apps),
        removed=tuple(app for name, app in old.apps.items() if name not in new.apps),
        changed=tuple(changed),
        server=find_changes(old.server, new.server),
        cluster=_cluster_changes(old.cluster, new.cluster),
    )


def _cluster_changes(old: Cluster | None, new: Cluster | None) -> Sequence[Change]:
    """Find the keys in which two tables differ, one of which may be missing."""
    if old is not None and new is not None:
        return find_changes(old, new)
    changes = []
    for is_new, table in ((False, old), (True, new)):
        for key, value in {} if table is None else table_record(table).items():
            text, found = to_toml(value), getattr(table, key)
            ours, none = (found, text), (None, None)
            (before, old_text), (after, new_text) = (none, ours) if is_new else (ours, none)
            changes.append(Change(key=key, reload=Reload.FIXED, old=before, new=after, old_text=old_text, new_text=new_text))
    return tuple(changes)


def find_changes(old: App | Cluster | Server, new: App | Cluster | Server) -> Sequence[Change]:
    """Find the keys in which two tables of one kind differ, in the order of the documentation."""
    if old == new:
        return ()
    running = with_live_changes(old, new) if isinstance(old, App) and isinstance(new, App) else new
    texts = [{key: to_toml(value) for key, value in record.items()} for record in changed_records(old, new)]
    changes = []
    for name, key in keys_of(type(new)).items():
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            old_text, new_text = (text.get(name) for text in texts)
            reload = key.reload if key.reload is not Reload.LIVE or getattr(running, name) == after else Reload.NEXT
            changes.append(Change(key=name, reload=reload, old=before, new=after, old_text=old_text, new_text=new_text))
    return tuple(changes)


def with_live_changes(old: App, new: App) -> App:
    """Return the settings of a running room after an edit: the live keys of the new app, and all others as they were.

    A default that depends on another key, as `join_message` depends on `routing`, depends on that of the room.
    """
    update = {name: getattr(new, name) for name, key in keys_of(App).items() if key.reload is Reload.LIVE}
    for name in DEPENDENT.difference(new.model_fields_set):
        update[name] = App.model_fields[name].get_default(
            call_default_factory=True, validated_data={**dict(old), "auth": new.auth}
        )
    return old.model_copy(update=update)
