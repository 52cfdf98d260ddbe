"""The messages of the control socket: one request and one answer per connection, each one line of JSON."""

from typing import Final

import msgspec

from scalesocket.status import SiteStatus

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest answer: a status lists every room."""


class Reload(msgspec.Struct, tag="reload", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the site file and apply it; the answer is a ReloadReport."""

    dry_run: bool = False
    """Prepare everything and apply nothing."""
    restart: str | None = None
    """An app whose open rooms are restarted with the applied settings; their clients are closed with 1012."""


class Diff(msgspec.Struct, tag="diff", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare the site file with the running site; the answer is a ReloadReport."""


class Status(msgspec.Struct, tag="status", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the SiteStatus."""


Request = Reload | Diff | Status


class AffectedKey(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a difference: a changed key, or an added or removed app."""

    path: str
    """`server.bind`, `apps.chat.routing`, or `apps.chat`."""
    kind: str
    """`added`, `removed`, `changed`, or `renewed` for the certificates."""
    reload: str
    """The class of the key: `live`, `next` or `listener`."""
    old: str | None = None
    """In the syntax of the site file, with secrets masked; None if it is not set."""
    new: str | None = None
    rooms: int = 0
    """Affected rooms: those of the app, or all of them for a key of the server."""
    clients: int = 0
    """Affected clients."""


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a reload, or of a dry run."""

    is_applied: bool
    """Whether the running site changed."""
    generation: int
    """The generation of the running site."""
    changes: tuple[AffectedKey, ...] = ()
    restarted: int = 0
    """Rooms whose restart was started."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to any request: an error, or the result."""

    error: str | None = None
    """Why the request failed; may have several lines."""
    is_site_wrong: bool = False
    """Whether the error is in the site file."""
    report: ReloadReport | None = None
    status: SiteStatus | None = None
