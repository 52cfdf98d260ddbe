"""Starts of programs: many at once, late, cancelled, refused."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import cast

import pytest

from scalesocket.backends import pending_starts, spawner_client
from scalesocket.backends.child import Child, SpawnRequest
from scalesocket.backends.pending_starts import PendingStart, PendingStarts
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.errors import SpawnerError
from tests.backends.recording import (
    open_fds,
    open_file_limit,
    until,
)
from tests.backends.spawners import CAT, kill_spawner, make_old

pytestmark = pytest.mark.anyio


async def test_a_program_is_searched_in_path_again_after_a_second(spawner: SpawnerClient, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    request = SpawnRequest(argv=("here",), env={"PATH": f"{first}:{second}"}, cwd="/")

    async def run() -> str:
        child = await spawner.spawn(request)
        await child.wait_exit()
        text = os.read(child.stdout, 100).decode()
        child.discard()
        await child.wait_released()
        return text

    def install(folder: Path) -> None:
        folder.mkdir()
        (folder / "here").write_text(f"#!/bin/sh\necho {folder.name}\n")
        (folder / "here").chmod(0o755)

    install(second)
    assert await run() == "second\n"
    (second / "here").rename(tmp_path / "there")
    with pytest.raises(SpawnerError, match="no such file"):
        await run()
    (tmp_path / "there").rename(second / "here")
    assert await run() == "second\n"
    install(first)  # an earlier folder of PATH wins after the next search
    async with asyncio.timeout(10):
        while await run() != "first\n":
            pass


async def test_waiting_starts_are_sent_when_the_deadline_check_reads_answers(
    spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 1.0)
    woken, wake = os.pipe()
    loop = asyncio.get_running_loop()

    def block_loop() -> None:
        os.read(woken, 1)
        time.sleep(0.4)

    loop.add_reader(woken, block_loop)
    first, spawner_pid = await spawner.spawn(CAT), spawner.pid  # starts the timer
    await asyncio.sleep(0.8)
    waits = [asyncio.ensure_future(spawner.spawn(CAT)) for _ in range(2 * pending_starts.MAX_IN_FLIGHT + 5)]
    await asyncio.sleep(0)
    os.write(wake, b"x")

    async with asyncio.timeout(5):
        children = await asyncio.gather(*waits)
    assert len({child.pid for child in children}) == len(waits)
    assert spawner.pid == spawner_pid
    for child in (first, *children):
        child.discard()
    await until(lambda: not spawner.groups)
    loop.remove_reader(woken)
    os.close(woken)
    os.close(wake)


async def test_the_deadline_check_tolerates_the_absence_of_a_spawner(
    spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 1.0)
    monkeypatch.setattr(spawner_client, "RETRY_PAUSE", 1.5)
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: faults.append(report))
    (await spawner.spawn(CAT)).discard()
    assert spawner.pid is not None
    os.kill(spawner.pid, signal.SIGKILL)
    await until(lambda: spawner.pid is None)

    await until(lambda: spawner._starts._timer is None and spawner.pid is None)
    await until(lambda: spawner.pid is not None)

    assert faults == []
    asyncio.get_running_loop().set_exception_handler(None)
    (await spawner.spawn(CAT)).discard()
    await until(lambda: not spawner.groups)


async def test_starts_behind_a_spawner_that_cannot_be_killed_fail(
    spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 0.2)
    monkeypatch.setattr(spawner_client, "RELEASE_TIMEOUT", 0.2)
    assert spawner._process is not None
    os.kill(spawner._process.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(spawner._process, "kill", lambda: None)
        starts = [spawner.spawn(CAT) for _ in range(pending_starts.MAX_IN_FLIGHT + 2)]

        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*starts, return_exceptions=True)

    assert [str(outcome) for outcome in outcomes] == ["it did not start within 0.2 s"] * 16 + ["the spawner does not end"] * 2
    monkeypatch.undo()
    await kill_spawner(spawner)  # it has started nothing, and the next one starts nothing
    assert spawner.groups == frozenset()


async def test_a_child_that_arrives_after_its_start_was_cancelled_is_killed() -> None:
    start = PendingStart(1, b"")
    waiting = asyncio.create_task(start.wait())
    await asyncio.sleep(0)
    starts = PendingStarts()
    starts.waiting.append(start)
    starts.note_sent(now=0.0)
    waiting.cancel()
    starts.fail_late(now=100.0)
    await asyncio.sleep(0)
    assert not waiting.done()  # the spawner may still start it

    child = FakeChild()
    starts.in_flight[1].succeed(cast(Child, child))

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert child.is_discarded


class FakeChild:
    is_discarded = False

    def discard(self) -> None:
        self.is_discarded = True

    async def wait_released(self) -> None:
        assert self.is_discarded


async def test_cancelled_starts_do_not_delay_others_while_the_spawner_hangs(
    spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 0.3)
    old = make_old(spawner)
    os.kill(old, signal.SIGSTOP)
    starts = [asyncio.ensure_future(spawner.spawn(CAT)) for _ in range(pending_starts.MAX_IN_FLIGHT)]
    await until(lambda: len(spawner._starts.in_flight) == pending_starts.MAX_IN_FLIGHT)

    for start in starts:
        start.cancel()
    await asyncio.wait(starts)

    monkeypatch.undo()
    async with asyncio.timeout(5):
        child = await spawner.spawn(CAT)
    assert spawner.pid != old
    child.discard()
    await until(lambda: not spawner.groups)


async def test_a_start_cancelled_as_it_is_answered_is_waited_for(spawner: SpawnerClient) -> None:
    woken, wake = os.pipe()
    starting: asyncio.Task[Child] | None = None

    def cancel() -> None:
        os.read(woken, 1)
        assert starting is not None
        starting.cancel()

    asyncio.get_running_loop().add_reader(woken, cancel)
    for _ in range(20):
        starting = asyncio.create_task(spawner.spawn(CAT))
        await asyncio.sleep(0)
        os.write(wake, b"x")
        time.sleep(0.02)  # noqa: ASYNC251 - both are read in one iteration of the event loop
        await asyncio.wait((starting,))
        assert not spawner.groups
    asyncio.get_running_loop().remove_reader(woken)
    os.close(woken)
    os.close(wake)


async def test_a_thousand_starts(spawner: SpawnerClient) -> None:
    started = await asyncio.gather(*(spawner.spawn(CAT) for _ in range(1000)))

    assert len({child.pid for child in started}) == 1000
    assert len(spawner.groups) == 1000
    for number, child in enumerate(started):
        os.write(child.stdin, b"%d" % number)
    for child in started:
        os.close(child.stdin)
    assert {(await child.wait_exit()).status for child in started} == {0}
    assert sorted(int(os.read(child.stdout, 99)) for child in started) == list(range(1000))
    for child in started:
        os.close(child.stdout)
        os.close(child.stderr)
        child.release()
    for child in started:
        await child.wait_released()


async def test_one_start_too_many_fails(spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_starts, "MAX_WAITING", 10)

    outcomes = await asyncio.gather(*(spawner.spawn(CAT) for _ in range(100)), return_exceptions=True)

    started = [outcome for outcome in outcomes if isinstance(outcome, Child)]
    assert len(started) == pending_starts.MAX_IN_FLIGHT + 10
    assert {str(outcome) for outcome in outcomes if not isinstance(outcome, Child)} == {"too many starts are waiting"}
    for child in started:
        child.discard()
    for child in started:
        await child.wait_released()


async def test_a_start_without_free_descriptors_fails_and_leaves_nothing(spawner: SpawnerClient) -> None:
    before = open_fds()
    lowest = os.dup(0)
    os.close(lowest)

    for free in range(3):
        with open_file_limit(lowest + free), pytest.raises(SpawnerError, match="too many open files"):
            await spawner.spawn(CAT)

    await until(lambda: not spawner.groups)
    assert open_fds() == before
