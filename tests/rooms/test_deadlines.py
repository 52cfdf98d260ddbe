"""The deadlines of one room and its backend, alone."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scalesocket.config.model import App
from scalesocket.errors import BACKEND_ENDED, LIFETIME_REACHED, Close
from scalesocket.rooms.deadlines import Deadlines
from tests.rooms.memory import run_virtual


def app(**settings: Any) -> App:
    return App(name="game", command=("cat",), cwd=Path("/"), **settings)


class Stops:
    """Notes when and how the room was stopped."""

    def __init__(self) -> None:
        self.began = asyncio.get_running_loop().time()
        self.seen: list[tuple[float, Close]] = []

    def __call__(self, close: Close) -> None:
        self.seen.append((asyncio.get_running_loop().time() - self.began, close))


def virtual(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test)  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


@virtual
async def test_idle_timeout_stops_the_room() -> None:
    stops = Stops()
    deadlines = Deadlines(app(idle_timeout=5.0), stops)
    deadlines.start_idle()

    await asyncio.sleep(20.0)

    assert stops.seen == [(pytest.approx(5.0), BACKEND_ENDED)]


@virtual
async def test_a_client_that_joins_in_time_cancels_it() -> None:
    stops = Stops()
    deadlines = Deadlines(app(idle_timeout=5.0), stops)
    deadlines.start_idle()
    await asyncio.sleep(4.9)
    deadlines.stop_idle()
    deadlines.stop_idle()

    await asyncio.sleep(20.0)

    assert stops.seen == []


@virtual
async def test_an_edit_starts_the_idle_timeout_anew() -> None:
    stops = Stops()
    deadlines = Deadlines(app(idle_timeout=5.0), stops)
    deadlines.start_idle()
    await asyncio.sleep(4.0)
    deadlines.apply(app(idle_timeout=2.0))

    await asyncio.sleep(20.0)

    assert stops.seen == [(pytest.approx(6.0), BACKEND_ENDED)]


@virtual
async def test_the_lifetime_counts_from_the_first_backend() -> None:
    stops = Stops()
    deadlines = Deadlines(app(max_lifetime=10.0), stops)
    await asyncio.sleep(1.0)
    deadlines.begin(asyncio.get_running_loop().time())
    await asyncio.sleep(5.0)
    deadlines.begin(asyncio.get_running_loop().time())

    await asyncio.sleep(20.0)

    assert stops.seen == [(pytest.approx(11.0), LIFETIME_REACHED)]


@virtual
async def test_an_edit_of_the_lifetime_counts_from_the_same_moment() -> None:
    stops = Stops()
    deadlines = Deadlines(app(max_lifetime=10.0), stops)
    deadlines.begin(asyncio.get_running_loop().time())
    await asyncio.sleep(5.0)
    deadlines.apply(app(max_lifetime=7.0))

    await asyncio.sleep(20.0)

    assert stops.seen == [(pytest.approx(7.0), LIFETIME_REACHED)]


@virtual
async def test_nothing_happens_after_the_end() -> None:
    stops = Stops()
    deadlines = Deadlines(app(idle_timeout=5.0, max_lifetime=10.0), stops)
    deadlines.begin(asyncio.get_running_loop().time())
    deadlines.start_idle()
    deadlines.end()

    await asyncio.sleep(20.0)

    assert stops.seen == []


def is_stalled(
    deadlines: Deadlines, now: float, *, written: int = 1000, unsent: int = 10, is_output_paused: bool = False
) -> bool:
    return deadlines.is_stalled(now, written=written, unsent=unsent, is_output_paused=is_output_paused)


@virtual
async def test_a_backend_that_takes_nothing_for_stall_timeout_is_stalled() -> None:
    deadlines = Deadlines(app(stall_timeout=3.0), Stops())
    deadlines.begin(0.0)

    assert not is_stalled(deadlines, 1.0)  # it has taken 990 bytes by now
    assert not is_stalled(deadlines, 3.9)
    assert is_stalled(deadlines, 4.0)


@pytest.mark.parametrize(
    "progress", [{"unsent": 9}, {"written": 1010}, {"unsent": 0}, {"is_output_paused": True}], ids=lambda one: next(iter(one))
)
def test_progress_excuses_a_backend(progress: dict[str, Any]) -> None:
    deadlines = Deadlines(app(stall_timeout=3.0), lambda _: None)
    deadlines.begin(0.0)
    is_stalled(deadlines, 1.0)

    assert not is_stalled(deadlines, 5.0, **progress)
    assert not is_stalled(deadlines, 7.9, **progress)
