"""When a backend's output is read: a flow, alone."""

import asyncio
from typing import Any, cast

from scalesocket.rooms.flow import PACE_CHECK, Flow
from tests.rooms.memory import run_virtual


class Receivers:
    """Stands for the clients."""

    def __init__(self) -> None:
        self.is_congested = self.is_waiting = False
        self.delivered = 0

    def stop_waiting(self) -> None:
        self.is_waiting = False


class Reader:
    """Stands for a backend, and notes whether it is read."""

    output = (0, 0)
    is_read = True

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


class Stand:
    def __init__(self) -> None:
        self.receivers = Receivers()
        self.flow = Flow(self.receivers)
        self.backend = self.begin()

    def begin(self) -> Reader:
        backend = Reader()
        self.flow.begin(cast(Any, backend))
        return backend

    def congest(self, is_congested: bool) -> None:
        self.receivers.is_congested = is_congested
        self.flow.congestion_changed()

    def wait(self, is_waiting: bool) -> None:
        self.receivers.is_waiting = is_waiting
        self.flow.waiting_changed()


def test_a_backend_is_not_read_while_all_clients_are_congested() -> None:
    async def scene() -> None:
        stand = Stand()
        stand.congest(True)
        assert not stand.backend.is_read
        assert stand.flow.is_paused

        stand.congest(False)

        assert stand.backend.is_read

    run_virtual(scene)


def test_a_backend_is_not_read_while_a_slow_client_is_waited_for() -> None:
    async def scene() -> None:
        stand = Stand()
        stand.wait(True)
        stand.congest(True)
        stand.congest(False)
        assert not stand.backend.is_read

        stand.wait(False)

        assert stand.backend.is_read

    run_virtual(scene)


def test_a_paced_backend_waits_while_the_network_takes_bytes() -> None:
    async def scene() -> None:
        stand = Stand()
        stand.congest(True)
        for _ in range(3):
            stand.receivers.delivered += 1
            await asyncio.sleep(PACE_CHECK)
        assert not stand.backend.is_read

        await asyncio.sleep(1.5 * PACE_CHECK)

        assert stand.backend.is_read

    run_virtual(scene)


def test_a_new_backend_waits_for_clients_whose_buffers_the_last_one_has_filled() -> None:
    async def scene() -> None:
        stand = Stand()
        stand.congest(True)
        stand.flow.detach()
        assert not stand.flow.is_paused

        second = stand.begin()

        assert not second.is_read
        stand.congest(False)
        assert second.is_read

    run_virtual(scene)


def test_the_end_of_a_backend_ends_every_wait() -> None:
    async def scene() -> None:
        stand = Stand()
        stand.wait(True)

        stand.flow.detach()

        assert not stand.flow.is_paused
        assert not stand.flow.has_more

    run_virtual(scene)


def test_only_unread_output_counts_as_more() -> None:
    async def scene() -> None:
        stand = Stand()
        assert not stand.flow.has_more

        stand.backend.output = (10, 1)

        assert stand.flow.has_more

    run_virtual(scene)
