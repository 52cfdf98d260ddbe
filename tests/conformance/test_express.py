"""The express lane does what RFC 6455 demands, however a client's bytes are cut."""

import asyncio
from collections.abc import Callable

import pytest

from tests.conformance.cases import Case, all_cases
from tests.conformance.conversation import Conversation, converse

CASES = list(all_cases())
LONGEST_IN_BYTES = 5_000
"""The longest case, in bytes, that is sent byte by byte."""


def cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_ends_as_it_must_however_it_is_cut(case: Case) -> None:
    sizes = [len(case.sends), 997]
    if len(case.sends) < LONGEST_IN_BYTES:
        sizes += [1, 2, 7]

    async def scene(open_one: Callable[..., Conversation]) -> None:
        for size in sizes:
            await check(open_one(), case, size)

    converse(scene)


async def check(peer: Conversation, case: Case, size: int) -> None:
    await peer.send(cut(case.sends, size))

    heard = peer.heard()
    assert peer.received == list(case.messages), f"cut by {size}"
    assert heard.pongs == list(case.pongs)
    assert heard.close == case.close
    if case.close is None:
        assert heard.messages == list(case.messages)
        assert not peer.transport.is_ended
    else:
        # The program's echoes may come after the close, and are then not sent.
        assert heard.messages == list(case.messages)[: len(heard.messages)]
        assert peer.transport.is_ended


def test_a_closed_connection_ends_in_time_although_its_peer_stays() -> None:
    async def scene(open_one: Callable[..., Conversation]) -> None:
        peer = open_one()
        await peer.send([b"\x81\x02hi"])
        assert peer.heard().close == (1002).to_bytes(2)

        await asyncio.sleep(60)

        assert peer.transport.is_closing()

    converse(scene)
