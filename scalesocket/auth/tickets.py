"""Tickets: short-lived secrets for the URL of one upgrade, issued to clients with another credential.

Only their hashes are kept, in memory, so that they end with the server.
"""

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from msgspec.structs import replace

from scalesocket.auth.attempt import Attempt, Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, WRONG_ROOM
from scalesocket.auth.identity import Identity

LIFETIME: Final = 30
"""Seconds."""
TICKET_BYTES: Final = 16
"""128 random bits."""
MAX_TICKET: Final = 64
"""Characters of a ticket that is looked up; longer ones are not hashed."""
MAX_TICKETS: Final = 20_000
"""Valid tickets of the whole site. When they are that many, none is issued until one is used or expires."""
MAX_OF_HOLDER: Final = 16
"""Valid tickets of one user, or of one address for guests. A further one replaces the oldest."""

Holder = tuple[str, str | None, str | None]
"""App, user, and for guests the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    app: str
    room: str
    identity: Identity
    holder: Holder
    expires_at: float
    """In seconds of the clock."""


class TicketTable(Protocol):
    """The valid tickets of the site: kept here, or by another process, whose answer is awaited."""

    def issue(self, identity: Identity, *, app: str, room: str, address: str | None) -> str | Awaitable[str | None] | None:
        """Make a ticket for this user and room. None if there are too many."""

    def redeem(self, ticket: str, *, app: str, room: str) -> Verdict | Coroutine[Any, Any, Verdict]:
        """Use a ticket up, and return the identity it was issued to."""


class Tickets:
    """The valid tickets of the site, in memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tickets: dict[bytes, _Ticket] = {}
        """By the hash of the ticket, oldest first."""
        self._held: dict[Holder, list[bytes]] = {}
        """The same hashes by holder, oldest first."""

    def __len__(self) -> int:
        return len(self._tickets)

    def issue(self, identity: Identity, *, app: str, room: str, address: str | None) -> str | None:
        """Make a ticket for this user and room. None if the table is full."""
        now = self._clock()
        self._drop_expired(now)
        holder = (app, identity.user, address if identity.user is None else None)
        held = self._held.get(holder, [])
        if len(held) >= MAX_OF_HOLDER:
            self._remove(held[0])
        elif len(self._tickets) >= MAX_TICKETS:
            return None
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        key = digest(ticket)
        entry = _Ticket(app=app, room=room, identity=identity, holder=holder, expires_at=now + LIFETIME)
        self._tickets[key] = entry
        self._held.setdefault(holder, []).append(key)
        return ticket

    def redeem(self, ticket: str, *, app: str, room: str) -> Verdict:
        """Use a ticket, and return the identity it was issued to. It is used up even if it is for another room."""
        key = digest(ticket)
        if key not in self._tickets:
            return BAD_CREDENTIAL
        found = self._remove(key)
        if found.app != app:
            return BAD_CREDENTIAL
        if found.expires_at <= self._clock():
            return EXPIRED
        if found.identity.expires_at is not None and found.identity.expires_at <= time.time():
            return EXPIRED
        return replace(found.identity, method="ticket") if found.room == room else WRONG_ROOM

    def _drop_expired(self, now: float) -> None:
        while self._tickets:
            key, oldest = next(iter(self._tickets.items()))
            if oldest.expires_at > now:
                return
            self._remove(key)

    def _remove(self, key: bytes) -> _Ticket:
        ticket = self._tickets.pop(key)
        held = self._held[ticket.holder]
        held.remove(key)
        if not held:
            del self._held[ticket.holder]
        return ticket


class TicketVerifier:
    """Lets clients of one app in with tickets."""

    def __init__(self, app: str, find_tickets: Callable[[], TicketTable]) -> None:
        self._app = app
        self._find_tickets = find_tickets

    def verify(self, attempt: Attempt) -> Verdict | Coroutine[Any, Any, Verdict] | None:
        """Use the ticket of an attempt up, if it has one."""
        ticket = attempt.credentials.ticket
        if ticket is None:
            return None
        if len(ticket) > MAX_TICKET:
            return BAD_CREDENTIAL
        return self._find_tickets().redeem(ticket, app=self._app, room=attempt.room)


def digest(ticket: str) -> bytes:
    """Return the hash under which a ticket is kept."""
    return hashlib.sha256(ticket.encode(errors="replace")).digest()
