"""Peers that vanish, stop, or never finish their request: they are closed, and others play on."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from statistics import median
from typing import Any, Final

import pytest

from tests.attacks import slow_heads, vanished_peers
from tests.conftest import Serve

pytestmark = pytest.mark.anyio

FLOOR: Final = 0.05
"""Seconds of a median that always pass: other tests run at the same time."""
LISTEN: Final = """
import sys
from websockets.sync.client import connect
with connect(sys.argv[1], proxy=None) as player:
    for message in player:
        pass
"""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_thousand_slow_heads_delay_nobody(tmp_path: Path) -> None:
    figures = await slow_heads.attack(tmp_path, seconds=1.0)

    assert figures.timed_out > 0  # and the first of them have been timed out meanwhile
    assert median(figures.during) <= max(2 * max(median(figures.before), median(figures.after)), FLOOR)
    assert figures.growth < slow_heads.PEERS * 16 * 1024


@pytest.mark.skipif(not vanished_peers.may_isolate(), reason="needs the right to make network namespaces")
def test_peers_that_vanish_are_closed_after_ping_interval_and_ping_timeout() -> None:
    figures = vanished_peers.attack()

    for seconds in (figures.idle, figures.busy):  # with an interval and a timeout of a second each, and a sweep in between
        assert 0.8 < seconds < 4.0
    assert figures.closed < max(figures.idle, figures.busy) + 0.5  # whatever stall_timeout is


async def test_a_peer_whose_process_is_stopped_is_closed_after_ping_timeout(serve_express: Serve) -> None:
    """Its kernel goes on to acknowledge everything, so only the missing pong shows it."""
    site = await serve_express(game={"command": ["cat"], "ping_interval": 0.3, "ping_timeout": 1.5})
    ann = await site.join("/game/one")
    words = (sys.executable, "-c", LISTEN, f"ws://127.0.0.1:{site.port}/game/one")
    peer = await asyncio.create_subprocess_exec(*words)
    try:
        await site.until(lambda: len(site.room("game", "one").clients) == 2)
        await ann.hear_nothing(within=2.0)
        assert len(site.room("game", "one").clients) == 2  # as long as it answers

        os.kill(peer.pid, signal.SIGSTOP)

        await site.until(lambda: len(site.room("game", "one").clients) == 1)
        await ann.say("still here")
        await ann.hear("still here")
    finally:
        peer.kill()
        await peer.wait()
