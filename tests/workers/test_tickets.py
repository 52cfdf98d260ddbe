"""Tickets of several workers, kept by the supervisor."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
from msgspec.structs import replace

from scalesocket.auth.denial import BAD_CREDENTIAL, NOT_AVAILABLE, WRONG_ROOM
from scalesocket.auth.identity import Identity, Role
from scalesocket.auth.tickets import MAX_OF_HOLDER, Tickets
from scalesocket.workers import tickets as tickets_module
from scalesocket.workers.link import Handlers, Link
from scalesocket.workers.site_messages import RedeemTicket
from scalesocket.workers.tickets import LinkedTickets, serve_tickets
from tests.workers.linking import open_pair

pytestmark = pytest.mark.anyio

ANN: Final = Identity(
    user="ann", method="jwt", rooms=("lobby", "x*"), roles=frozenset({Role.READ}), info='{"level":3}', expires_at=4e9
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def open_worker(tickets: Tickets) -> AsyncIterator[tuple[LinkedTickets, Link]]:
    """A worker that asks the supervisor, and its end of the link."""
    handlers = Handlers()
    serve_tickets(handlers, tickets)
    async with open_pair(handlers, Handlers()) as (_, far):
        yield LinkedTickets(far), far


async def issue(worker: LinkedTickets) -> str:
    ticket = await worker.issue(ANN, app="chat", room="lobby", address=None)
    assert ticket is not None
    return ticket


async def test_a_ticket_of_one_worker_is_valid_once_at_another() -> None:
    tickets = Tickets()
    async with open_worker(tickets) as (one, _), open_worker(tickets) as (two, _):
        ticket = await issue(one)

        assert await two.redeem(ticket, app="chat", room="lobby") == replace(ANN, method="ticket")
        assert await one.redeem(ticket, app="chat", room="lobby") is BAD_CREDENTIAL
        assert await two.redeem(await issue(one), app="chat", room="other") is WRONG_ROOM
        assert await two.redeem(await issue(one), app="pong", room="lobby") is BAD_CREDENTIAL
        for _ in range(MAX_OF_HOLDER):
            await issue(one)
            await issue(two)
        assert len(tickets) == MAX_OF_HOLDER


async def test_without_the_supervisor_tickets_are_refused() -> None:
    async with open_worker(Tickets()) as (worker, link):
        ticket = await issue(worker)
        link.close()

        assert await worker.redeem(ticket, app="chat", room="lobby") is NOT_AVAILABLE
        assert await worker.issue(ANN, app="chat", room="lobby", address=None) is None


async def test_a_supervisor_that_does_not_answer_is_waited_for_within_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: RedeemTicket) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(tickets_module, "TIMEOUT", 0.05)
    handlers = Handlers()
    handlers.add(RedeemTicket, never)
    async with open_pair(handlers, Handlers()) as (_, far):
        assert await LinkedTickets(far).redeem("x", app="chat", room="lobby") is NOT_AVAILABLE


def test_the_representation_of_a_request_has_no_ticket() -> None:
    assert "secret" not in repr(RedeemTicket(ticket="secret", app="chat", room="lobby"))
