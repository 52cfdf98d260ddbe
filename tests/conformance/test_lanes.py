"""Both lanes with real sockets and a real program; docs/lanes.md names what the general lane does otherwise."""

import asyncio
from typing import Any, Final

import pytest

from tests.conformance.cases import GROUPS, MAX_MESSAGE, Case
from tests.conformance.conversation import Heard, sort_frames
from tests.playing import DEADLINE, Lane, open_playground, site_of
from tests.raw import CLOSE, PING, PONG, RawClient, mask_frame

CAT: Final[dict[str, Any]] = {"command": ["cat"], "routing": "gwsocket", "max_message": MAX_MESSAGE}

LATE: Final = {f"invalid eda0 after {size} bytes in a frame that is not complete" for size in (0, 200, 70_000)}
"""The general lane waits for the third byte of a surrogate before it fails."""
LAST: Final = b"is there anything else?"
TOO_BIG: Final = (1009).to_bytes(2)
"""Hypercorn has a close frame for one violation."""
UNKNOWN_CODES: Final = {"close code 1014"}
"""The general lane ends the connection without a close frame: wsproto does not know the code."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.mark.parametrize("group", GROUPS)
async def test_each_lane_does_what_is_documented(lane: Lane, group: str) -> None:
    cases = [case for case in GROUPS[group]() if lane == "express" or case.name not in LATE]

    async with open_playground(site_of({"echo": CAT}, None), lane) as site:
        await site.join("/echo/one")  # keeps the room open
        for case in cases:
            peer = await site.join_raw("/echo/one")
            peer.send(case.sends)
            heard = await listen(peer, case)
            check(heard, case, lane)
            await peer.close()


def check(heard: Heard, case: Case, lane: Lane) -> None:
    """Compare with the case. Echoes come from a program: they may come after the close of the connection, and are lost then."""
    is_closed_silently = lane == "general" and (case.name in UNKNOWN_CODES or (case.is_violation and case.close != TOO_BIG))
    assert heard.close == (None if is_closed_silently else case.close), case.name
    assert heard.pongs == list(case.pongs), case.name
    expected = list(case.messages)
    assert heard.messages == (expected[: len(heard.messages)] if case.close is not None else expected), case.name


async def listen(peer: RawClient, case: Case) -> Heard:
    """Read up to the close frame or the end; if the websocket stays open, up to the answer to a last ping, after the echoes."""
    frames = []
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                frame = await peer.read_frame()
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            if frame.opcode == PING:
                continue
            if frame.opcode == PONG and frame.payload == LAST:
                break
            frames.append(frame)
            if frame.opcode == CLOSE:
                break
            if case.close is None and len(frames) == len(case.messages) + len(case.pongs):
                peer.send(mask_frame(LAST, PING))
    return sort_frames(frames)
