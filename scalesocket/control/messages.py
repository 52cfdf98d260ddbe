"""What is said over the control socket: one request and one answer a connection, each one line of JSON."""

from typing import Final

import msgspec

from scalesocket.status import SiteStatus

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest answer: a status names every room."""


class Reload(msgspec.Struct, tag="reload", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the site file and apply it; the answer is a ReloadReport."""

    dry_run: bool = False
    """Do everything but apply."""
    restart: str | None = None
    """An app whose running rooms shall be restarted with what is then in force (clients are closed with 1012)."""


class Diff(msgspec.Struct, tag="diff", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare the site file with what runs; the answer is a ReloadReport."""


class Status(msgspec.Struct, tag="status", tag_field="command", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the SiteStatus."""


Request = Reload | Diff | Status


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a difference: a key that changed, or a whole app that came or went."""

    path: str
    """`server.bind`, `apps.chat.routing`, or `apps.chat`."""
    kind: str
    """`added`, `removed`, `changed`, or `renewed` for the certificates."""
    reload: str
    """The class of the key: `live`, `next` or `listener`."""
    old: str | None = None
    """As the site file would write it, secrets masked; None for what is not set."""
    new: str | None = None
    rooms: int = 0
    """Rooms that notice: of the app, or of the site for a key of the server."""
    clients: int = 0
    """Clients that notice."""


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload did, or would do."""

    is_applied: bool
    """Whether the running site changed."""
    generation: int
    """Of the site that now runs."""
    changes: tuple[Touched, ...] = ()
    restarted: int = 0
    """Rooms that were told to restart."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to any request: an error, or what was asked for."""

    error: str | None = None
    """Why it was not done, as the log has it; may have several lines."""
    is_site_wrong: bool = False
    """Whether the site file is to blame for the error."""
    report: ReloadReport | None = None
    status: SiteStatus | None = None
