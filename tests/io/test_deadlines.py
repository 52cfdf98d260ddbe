"""Deadlines of many connections, with one timer."""

import asyncio
import math

import pytest

from scalesocket.io.deadlines import Deadlines
from tests.backends.recording import until

pytestmark = pytest.mark.anyio


class Waiting:
    def __init__(self) -> None:
        self.late_at = math.inf

    def time_out(self) -> None:
        self.late_at = asyncio.get_running_loop().time()


async def test_each_connection_has_its_own_deadline_and_none_once_it_is_stopped() -> None:
    loop = asyncio.get_running_loop()
    deadlines: Deadlines[Waiting] = Deadlines(loop, lambda: 0.05)
    first, stopped, last = Waiting(), Waiting(), Waiting()
    began = loop.time()
    deadlines.start(first)
    deadlines.start(stopped)
    await asyncio.sleep(0.03)
    deadlines.start(last)
    deadlines.stop(stopped)
    deadlines.stop(stopped)

    await until(lambda: last.late_at < math.inf)

    assert first.late_at >= began + 0.045
    assert last.late_at >= first.late_at + 0.02
    assert stopped.late_at == math.inf
    assert deadlines.oldest_at == math.inf
    deadlines.close()


async def test_a_connection_whose_end_stops_another_one_does_not_end_the_clock() -> None:
    deadlines: Deadlines[Waiting] = Deadlines(asyncio.get_running_loop(), lambda: 0.01)
    stopped, last = Waiting(), Waiting()

    class Stopping(Waiting):
        def time_out(self) -> None:
            super().time_out()
            deadlines.stop(stopped)

    for connection in Stopping(), stopped, last:
        deadlines.start(connection)

    await until(lambda: last.late_at < math.inf)

    assert stopped.late_at == math.inf
    deadlines.close()
