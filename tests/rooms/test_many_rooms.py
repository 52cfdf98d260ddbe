"""Rooms that were opened and closed leave nothing behind: no descriptor, task, process, object or memory."""

import asyncio
import gc
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import Serve
from tests.playing import Playground
from tests.raw import CLOSE, RawClient, close_payload, mask_frame

BATCH: Final = 100
"""Rooms that are open at the same time."""
MAX_GROWTH: Final = 1024 * 1024
"""Bytes of memory that 9,000 rooms may leave behind after the first 1,000: 116 for each, less than one small object of Python.
Without a leak it is up to 100 KiB: pages that the allocators keep."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the server holds while no room is open. It runs in the process of the test."""

    descriptors: int
    of_helpers: int
    """Descriptors of the spawner and the guardian."""
    helpers: int
    """Their number, and that of any other process left."""
    tasks: int
    objects: Counter[str]
    """Instances by class, of classes of this project and of asyncio."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def play(site: Playground, rooms: range, events: list[Any]) -> None:
    """Open each room, exchange a message, and leave; BATCH rooms at the same time. `events`: the log, which is not kept."""
    for first in rooms[::BATCH]:
        await asyncio.gather(*(visit(site.port, number) for number in range(first, min(first + BATCH, rooms.stop))))
        events.clear()
    await site.wait_no_rooms()


async def visit(port: int, number: int) -> None:
    async with await RawClient.join(port, f"/game/room-{number}") as client:
        client.say("hello")
        await client.hear("hello")
        client.send(mask_frame(close_payload(1000), CLOSE))
        assert await client.read_close() == (1000, "")


async def measure(site: Playground) -> Footprint:
    connections = site.service.connections
    await site.until(lambda: not connections.transports and not connections.websockets)
    helpers = descendants(os.getpid())
    gc.collect()
    objects = Counter(map(class_of, gc.get_objects()))
    return Footprint(
        descriptors=count_descriptors(os.getpid()),
        of_helpers=sum(map(count_descriptors, helpers)),
        helpers=len(helpers),
        tasks=len(asyncio.all_tasks()),
        objects=Counter({name: count for name, count in objects.items() if name.startswith(("scalesocket.", "asyncio."))}),
    )


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    found = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return found + [child for parent in found for child in descendants(parent)]


def count_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def class_of(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def resident() -> int:
    """The memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def open_and_close(serve: Serve, rooms: int, warm_up: int) -> int:
    """Play in so many rooms after a warm-up, and compare; return the growth of the memory in bytes."""
    site = await serve(game={"command": ["cat"]})
    await play(site, range(warm_up), serve.events)
    before, memory = await measure(site), resident()

    await play(site, range(warm_up, warm_up + rooms), serve.events)

    after, growth = await measure(site), resident() - memory
    assert site.gateway.pools["game"].rooms_total == warm_up + rooms
    assert after == before, f"left behind: {after.objects - before.objects}"
    return growth


async def test_rooms_that_were_opened_and_closed_leave_nothing_behind(serve_express: Serve) -> None:
    await open_and_close(serve_express, rooms=2 * BATCH, warm_up=BATCH)


@pytest.mark.soak
@pytest.mark.timeout(60)
async def test_ten_thousand_rooms_leave_no_memory_behind(serve_express: Serve) -> None:
    assert await open_and_close(serve_express, rooms=9_000, warm_up=1_000) < MAX_GROWTH
