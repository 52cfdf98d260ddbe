"""Tickets of all workers: the supervisor keeps them, so that a ticket that any worker has issued is valid once, at any worker."""

from typing import Final

from scalesocket.auth.attempt import Verdict
from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, NOT_AVAILABLE, WRONG_ROOM, Denial
from scalesocket.auth.identity import Identity
from scalesocket.auth.tickets import Tickets
from scalesocket.workers.link import Handlers, Link, LinkError
from scalesocket.workers.site_messages import IssuedTicket, IssueTicket, Redeemed, RedeemTicket

TIMEOUT: Final = 5.0
"""Seconds in which the supervisor must answer; then the ticket lets no one in."""
DENIALS: Final = {denial.reason: denial for denial in (BAD_CREDENTIAL, EXPIRED, WRONG_ROOM)}


class LinkedTickets:
    """The tickets that the supervisor keeps (`auth.tickets.TicketTable`)."""

    def __init__(self, link: Link) -> None:
        """Ask the supervisor over `link`."""
        self._link = link

    async def issue(self, identity: Identity, *, app: str, room: str, address: str | None) -> str | None:
        """Have a ticket made. None if there are too many, or the supervisor does not answer."""
        request = IssueTicket(identity=identity, app=app, room=room, address=address)
        try:
            return (await self._link.call(request, IssuedTicket, timeout=TIMEOUT)).ticket
        except LinkError:
            return None

    async def redeem(self, ticket: str, *, app: str, room: str) -> Verdict:
        """Use a ticket up. If the supervisor does not answer, the client has to try again."""
        try:
            answer = await self._link.call(RedeemTicket(ticket=ticket, app=app, room=room), Redeemed, timeout=TIMEOUT)
        except LinkError:
            return NOT_AVAILABLE
        if answer.identity is not None:
            return answer.identity
        return DENIALS.get(answer.denial or "", BAD_CREDENTIAL)


def serve_tickets(handlers: Handlers, tickets: Tickets) -> None:
    """Keep the tickets of a worker."""

    def issue(message: IssueTicket) -> IssuedTicket:
        ticket = tickets.issue(message.identity, app=message.app, room=message.room, address=message.address)
        return IssuedTicket(ticket)

    def redeem(message: RedeemTicket) -> Redeemed:
        verdict = tickets.redeem(message.ticket, app=message.app, room=message.room)
        return Redeemed(denial=verdict.reason) if isinstance(verdict, Denial) else Redeemed(identity=verdict)

    handlers.add(IssueTicket, issue)
    handlers.add(RedeemTicket, redeem)
