"""Tickets of all nodes, in the engine: a ticket that any node has issued is valid once, at any node."""

import secrets
import time
from collections import OrderedDict
from typing import Final

import msgspec
from msgspec.structs import replace

from scalesocket.auth.attempt import Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, NOT_AVAILABLE, WRONG_ROOM
from scalesocket.auth.identity import Identity
from scalesocket.auth.tickets import LIFETIME, MAX_OF_HOLDER, MAX_TICKETS, TICKET_BYTES, Holder, digest
from scalesocket.cluster.link import EngineError
from scalesocket.cluster.listing import Listing
from scalesocket.placement.facts import Who


class Content(msgspec.Struct, frozen=True):
    """What a ticket grants."""

    app: str
    room: str
    who: Who


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Content).decode


class ClusterTickets:
    """Tickets that the engine keeps (`auth.tickets.TicketTable`). Each node bounds those that it has issued."""

    def __init__(self, listing: Listing) -> None:
        """Keep them through `listing`."""
        self._listing = listing
        self._issued: OrderedDict[bytes, tuple[Holder, float]] = OrderedDict()
        """By hash, oldest first: the user, and when the ticket expires. Used tickets stay until then."""

    async def issue(self, identity: Identity, *, app: str, room: str, address: str | None) -> str | None:
        """Make a ticket. None if there are too many, or the engine does not answer."""
        now = time.monotonic()
        while self._issued and next(iter(self._issued.values()))[1] <= now:
            self._issued.popitem(last=False)
        holder = (app, identity.user, address if identity.user is None else None)
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        key = digest(ticket)
        try:
            held = [other for other, (its_holder, _) in self._issued.items() if its_holder == holder]
            if len(held) >= MAX_OF_HOLDER:
                del self._issued[held[0]]
                await self._listing.take_ticket(held[0])
            elif len(self._issued) >= MAX_TICKETS:
                return None
            self._issued[key] = holder, now + LIFETIME
            content = _encode(Content(app, room, Who.of(identity)))
            return ticket if await self._listing.put_ticket(key, content, LIFETIME) else None
        except EngineError:
            return None

    async def redeem(self, ticket: str, *, app: str, room: str) -> Verdict:
        """Use a ticket up, even if it is for another room. If the engine does not answer, the client is told to try again."""
        try:
            found = await self._listing.take_ticket(digest(ticket))
            content = None if found is None else _decode(found)
        except EngineError:
            return NOT_AVAILABLE
        except msgspec.DecodeError:  # of another version
            return BAD_CREDENTIAL
        if content is None or content.app != app:
            return BAD_CREDENTIAL
        identity = content.who.identity()
        if identity.expires_at is not None and identity.expires_at <= time.time():
            return EXPIRED
        return replace(identity, method="ticket") if content.room == room else WRONG_ROOM
