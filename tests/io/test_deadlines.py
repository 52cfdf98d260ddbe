"""Deadlines of many connections, with one timer."""

import asyncio
import math

from scalesocket.io.deadlines import Deadlines
from tests.rooms.memory import run_virtual


class Waiting:
    def __init__(self) -> None:
        self.late_at = math.inf

    def time_out(self) -> None:
        self.late_at = asyncio.get_running_loop().time()


def test_each_connection_has_its_own_deadline_and_none_once_it_is_stopped() -> None:
    async def scene() -> None:
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

        await asyncio.sleep(1.0)

        assert began + 0.045 <= first.late_at < math.inf
        assert first.late_at + 0.02 <= last.late_at < math.inf
        assert stopped.late_at == math.inf
        assert deadlines.oldest_at == math.inf
        deadlines.close()

    run_virtual(scene)


def test_a_connection_whose_end_stops_another_one_does_not_end_the_clock() -> None:
    async def scene() -> None:
        deadlines: Deadlines[Waiting] = Deadlines(asyncio.get_running_loop(), lambda: 0.01)
        stopped, last = Waiting(), Waiting()

        class Stopping(Waiting):
            def time_out(self) -> None:
                super().time_out()
                deadlines.stop(stopped)

        for connection in Stopping(), stopped, last:
            deadlines.start(connection)

        await asyncio.sleep(1.0)

        assert last.late_at < math.inf
        assert stopped.late_at == math.inf
        deadlines.close()

    run_virtual(scene)
