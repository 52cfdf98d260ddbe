import pytest
from msgspec.structs import replace

from scalesocket.auth.denial import BAD_CREDENTIAL, EXPIRED, WRONG_ROOM, Denial
from scalesocket.auth.identity import WRITER, Identity
from scalesocket.auth.tickets import LIFETIME, MAX_OF_HOLDER, MAX_TICKETS, Tickets

ANN = Identity(user="ann", method="jwt", rooms=None, roles=WRITER, info="null", expires_at=None)
GUEST = replace(ANN, user=None, method="anonymous")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def issue(tickets: Tickets, identity: Identity = ANN, *, room: str = "lobby", address: str = "192.0.2.1") -> str:
    ticket = tickets.issue(identity, app="chat", room=room, address=address)
    assert ticket is not None
    return ticket


def test_a_ticket_lets_its_user_into_its_room_once() -> None:
    tickets = Tickets()
    ticket = issue(tickets)

    assert tickets.redeem(ticket, app="chat", room="lobby") == replace(ANN, method="ticket")
    assert tickets.redeem(ticket, app="chat", room="lobby") is BAD_CREDENTIAL


def test_a_ticket_has_128_random_bits() -> None:
    tickets = Tickets()

    some = {issue(tickets) for _ in range(100)}

    assert len(some) == 100
    assert {len(ticket) for ticket in some} == {22}  # 128 bits in base64, without padding


@pytest.mark.parametrize(("app", "room", "denial"), [("other", "lobby", BAD_CREDENTIAL), ("chat", "other", WRONG_ROOM)])
def test_a_ticket_for_another_app_or_room_is_used_up(app: str, room: str, denial: Denial) -> None:
    tickets = Tickets()
    ticket = issue(tickets)

    assert tickets.redeem(ticket, app=app, room=room) is denial
    assert tickets.redeem(ticket, app="chat", room="lobby") is BAD_CREDENTIAL


def test_a_ticket_expires() -> None:
    clock = Clock()
    tickets = Tickets(clock)
    early, late = issue(tickets), issue(tickets)

    clock.now += LIFETIME - 0.1
    assert isinstance(tickets.redeem(early, app="chat", room="lobby"), Identity)
    clock.now += 0.1
    assert tickets.redeem(late, app="chat", room="lobby") is EXPIRED


def test_tickets_are_kept_as_hashes_alone() -> None:
    tickets = Tickets()
    ticket = issue(tickets)

    assert ticket not in repr(vars(tickets))
    assert ticket.encode() not in b"".join(tickets._tickets)


def test_a_user_who_asks_for_many_tickets_loses_only_the_own_oldest() -> None:
    tickets = Tickets()
    bob = issue(tickets, replace(ANN, user="bob"))

    of_ann = [issue(tickets) for _ in range(MAX_OF_HOLDER + 5)]

    valid = [isinstance(tickets.redeem(ticket, app="chat", room="lobby"), Identity) for ticket in of_ann]
    assert valid == [False] * 5 + [True] * MAX_OF_HOLDER
    assert isinstance(tickets.redeem(bob, app="chat", room="lobby"), Identity)
    assert len(tickets) == 0


def test_guests_are_told_apart_by_address() -> None:
    tickets = Tickets()
    first = issue(tickets, GUEST, address="192.0.2.1")

    for _ in range(MAX_OF_HOLDER):
        issue(tickets, GUEST, address="192.0.2.2")

    assert isinstance(tickets.redeem(first, app="chat", room="lobby"), Identity)


def test_the_table_is_bounded_and_empties_itself() -> None:
    clock = Clock()
    tickets = Tickets(clock)
    for number in range(MAX_TICKETS):
        issue(tickets, replace(ANN, user=str(number)))

    assert tickets.issue(ANN, app="chat", room="lobby", address=None) is None
    clock.now += LIFETIME
    assert tickets.issue(ANN, app="chat", room="lobby", address=None) is not None
    assert len(tickets) == 1
    assert len(tickets._held) == 1


@pytest.mark.parametrize("guess", ["", "x", "é", "\udcff", "A" * 22, "A" * 1_000_000])
def test_what_was_not_issued_is_no_ticket(guess: str) -> None:
    tickets = Tickets()
    issue(tickets)

    assert tickets.redeem(guess, app="chat", room="lobby") is BAD_CREDENTIAL
