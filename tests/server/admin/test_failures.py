"""Wrong tokens: counted by address, slowed down, and then refused."""

from scalesocket.server.admin.failures import FREE, LIMIT, MAX_BLOCKS, STEP, WINDOW, WrongTokens

ANN = ("192.0.2.1", 1000)


def test_the_first_wrong_tokens_are_answered_at_once_and_the_next_ever_later() -> None:
    wrong = WrongTokens()

    delays = [wrong.add(ANN, now) for now in range(FREE + 3)]

    assert delays[:FREE] == [0] * FREE
    assert delays[FREE:] == [STEP, 2 * STEP, 3 * STEP]


def test_an_address_with_many_wrong_tokens_waits_until_the_first_is_a_minute_old() -> None:
    wrong = WrongTokens()
    for now in range(LIMIT - 1):
        wrong.add(ANN, now)
    before = wrong.wait(ANN, LIMIT)

    wrong.add(ANN, LIMIT)

    assert before == 0
    assert wrong.wait(ANN, LIMIT) == WINDOW - LIMIT
    assert wrong.wait(("192.0.2.1", 2000), LIMIT) > 0
    assert wrong.wait(("192.0.2.2", 1000), LIMIT) == 0
    assert wrong.wait(None, LIMIT) == 0
    assert wrong.wait(ANN, WINDOW) == 0


def test_ipv6_addresses_count_by_their_network() -> None:
    wrong = WrongTokens()
    for number in range(LIMIT):
        wrong.add((f"2001:db8::{number:x}", 1), 0)

    assert wrong.wait(("2001:db8::ffff", 1), 1) > 0
    assert wrong.wait(("2001:db8:1::1", 1), 1) == 0


def test_a_bounded_number_of_addresses_is_remembered() -> None:
    wrong = WrongTokens()
    for _ in range(LIMIT):
        wrong.add(ANN, 0)

    for number in range(MAX_BLOCKS + 10):
        wrong.add((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1), 0)

    assert len(wrong) == MAX_BLOCKS
    assert wrong.wait(ANN, 0) == 0
