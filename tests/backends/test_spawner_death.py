"""Rooms go on when their spawner dies, and its successor takes over."""

import asyncio
import os
import signal
import subprocess
import threading
import time

import pytest

from scalesocket.backends import adopted_children, orphan_reaper, pending_starts, spawner_client, spawner_process
from scalesocket.backends.child import Child, SpawnRequest
from scalesocket.backends.orphan_reaper import reap_orphans
from scalesocket.backends.process_groups import find_unreported_children
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.errors import BackendError, SpawnerError
from tests.backends.recording import (
    PROGRAMS,
    OpenRoom,
    children,
    exists,
    is_alive,
    open_fds,
    open_file_limit,
    program,
    until,
)
from tests.backends.spawners import CAT, kill_spawner, list_running, make_old

pytestmark = pytest.mark.anyio


async def test_rooms_go_on_when_the_spawner_is_killed(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    rooms = [await open_room("cat") for _ in range(5)]

    await kill_spawner(spawner)

    for room in rooms:
        room.backend.write(b"still here\n")
        await room.wait_output(b"still here\n")
    later = await open_room("cat")
    assert (await later.stop()).status == 0
    for room in rooms:
        assert (await room.stop()).status == 0
        assert not exists(room.backend.pid or 0)


async def test_spawners_that_die_one_after_the_other_leave_no_pipes_open(spawner: SpawnerClient) -> None:
    before = open_fds()
    pipes = []

    for _ in range(5):
        await kill_spawner(spawner)  # before its guardian covers all children
        pipes.append(open_fds()["pipe"])

    assert max(pipes) <= before["pipe"] + 1  # that of the one guardian that is kept
    async with asyncio.timeout(10):
        (await spawner.spawn(CAT)).discard()
    await until(lambda: not spawner.groups)
    assert open_fds() == before


async def test_a_guardian_is_kept_until_the_next_spawner_guards_all_children(
    spawner: SpawnerClient,
) -> None:
    (await spawner.spawn(CAT)).discard()
    first = spawner.guardian
    assert first is not None

    for _ in range(3):
        await kill_spawner(spawner)
        assert is_alive(first)

    await until(lambda: not exists(first))
    await until(lambda: not spawner.groups)


@pytest.mark.parametrize("number", [1, 2], ids=["first", "replacement"])
async def test_a_guardian_that_was_not_reported_ends_and_kills_nothing(
    spawner: SpawnerClient, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The spawner is killed right after it forked its first guardian, or one that replaces a killed guardian."""
    monkeypatch.setattr(orphan_reaper, "INTERVAL", 0.05)
    monkeypatch.setattr(spawner_client, "SHORT_LIFE", 0.0)  # replaced at once, however young
    plain, limited = await open_room("cat"), await open_room("cat", limits={"open_files": 64})  # one in a control group
    with monkeypatch.context() as patch:
        patch.setattr(spawner_process, "PROGRAM", PROGRAMS / "short_lived_spawner.py")
        patch.setenv("FATAL_GUARDIAN", str(number))
        first = spawner.pid
        os.kill(first or 0, signal.SIGKILL)
        await until(lambda: spawner.pid not in {first, None})
        doomed = spawner.pid
    if number == 2:
        await until(lambda: bool(spawner.guardian))
        await until(lambda: spawner._recovery is not None and spawner._recovery._previous_guardian is None)
        os.kill(spawner.guardian or 0, signal.SIGKILL)

    await until(lambda: spawner.pid not in {doomed, None} and bool(spawner.guardian))

    await until(lambda: set(children()) == {spawner.pid, plain.backend.pid, limited.backend.pid})
    for room in (plain, limited):
        room.backend.write(b"still here\n")
        await room.wait_output(b"still here\n")
        assert (await room.stop()).status == 0


async def test_orphans_of_programs_are_reaped_after_the_death_of_their_spawner(
    spawner: SpawnerClient, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphan_reaper, "INTERVAL", 0.05)
    room = await open_room("sh", "-c", "setsid sleep 60 >&- 2>&- & echo $!; wait")
    orphan = int(await room.wait_line())
    await kill_spawner(spawner)
    await room.stop()
    assert is_alive(orphan)  # it is in a group of its own

    os.kill(orphan, signal.SIGKILL)

    await until(lambda: not exists(orphan))


def test_a_child_of_the_application_is_not_reaped_with_the_orphans() -> None:
    program = subprocess.Popen(["sh", "-c", "exit 3"])
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)

    reap_orphans(lambda _: False)

    assert program.wait() == 3


async def test_the_end_of_an_adopted_process_is_reported(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    calm = await open_room("sh", "-c", "read line; exit 3")
    wild = await open_room("sh", "-c", "read line; kill -ABRT $$")
    await kill_spawner(spawner)

    calm.backend.write(b"\n")
    wild.backend.write(b"\n")

    assert (await calm.end()).status == 3
    assert (await wild.end()).signal == signal.SIGABRT


async def test_the_whole_group_of_an_adopted_process_is_killed_and_reaped(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    room = await open_room(*program("nest"))
    pids = [int(word) for word in (await room.wait_line()).split()]
    await kill_spawner(spawner)

    outcome = await room.stop(timeout=0.5)

    assert outcome.signal == signal.SIGTERM
    assert not any(map(exists, pids))


async def test_a_process_that_ended_before_its_spawner_died_is_released(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    room = await open_room(*program("grandchild", 60, "quiet"))
    pid = int(await room.wait_line())
    assert (await room.backend.wait_exit()).status == 0

    await kill_spawner(spawner)

    await room.end()
    assert not exists(pid)


async def test_a_stop_in_progress_when_the_spawner_is_killed_completes(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    rooms = [await open_room(*program("stubborn")) for _ in range(5)]
    for room in rooms:
        await room.wait_output(b"stubborn\n")
    stops = [asyncio.ensure_future(room.stop(timeout=0.05 * number)) for number, room in enumerate(rooms)]
    await rooms[-1].wait_output(b"SIGTERM\n")

    await kill_spawner(spawner)

    assert {(await stop).signal for stop in stops} == {signal.SIGKILL}
    assert not any(exists(room.backend.pid or 0) for room in rooms)


async def test_starts_in_flight_when_the_spawner_is_killed_are_retried_by_the_next(spawner: SpawnerClient) -> None:
    marker = f"7{time.monotonic_ns() % 10**9}"
    request = SpawnRequest(argv=("sleep", marker), env={"PATH": os.environ["PATH"]}, cwd="/")
    starts = [asyncio.ensure_future(spawner.spawn(request)) for _ in range(200)]

    for _ in range(3):
        before = sum(start.done() for start in starts)
        await until(lambda before=before: sum(start.done() for start in starts) > before + 20)
        await kill_spawner(spawner)

    started: list[Child] = []
    for outcome in await asyncio.gather(*starts, return_exceptions=True):
        assert isinstance(outcome, Child | SpawnerError)
        if isinstance(outcome, Child):
            started.append(outcome)
    assert len(started) > 150
    await until(lambda: len(list_running(marker)) == len(started))  # those that were not reported are killed
    for child in started:
        child.discard()
    await until(lambda: not spawner.groups)
    assert list_running(marker) == []


def test_unreported_children_are_searched_while_threads_start_and_end() -> None:
    is_over = threading.Event()

    def start_threads() -> None:
        while not is_over.is_set():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

    starters = [threading.Thread(target=start_threads) for _ in range(4)]
    with subprocess.Popen(["sleep", "60"], process_group=0) as child:
        for starter in starters:
            starter.start()
        try:
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                assert child.pid in find_unreported_children(os.getpid(), lambda _: False, 0.0)
        finally:
            is_over.set()
            for starter in starters:
                starter.join()
            child.kill()


async def test_orphans_of_running_programs_survive_the_death_of_the_spawner(open_room: OpenRoom, spawner: SpawnerClient) -> None:
    script = "set -m; (sleep 60 3>&- & echo $! >&3) 3>&1 >/dev/null; cat"  # sleep is an orphan with a group of its own
    room = await open_room("bash", "-c", script)
    pid = int(await room.wait_line())
    await asyncio.sleep(1.1)  # older than any start in flight

    starting = asyncio.ensure_future(spawner.spawn(CAT))
    await asyncio.sleep(0)
    await kill_spawner(spawner)

    (await starting).discard()
    assert is_alive(pid)
    await room.stop()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead
    await until(lambda: not spawner.groups)


async def test_a_spawner_that_hangs_is_replaced(
    spawner: SpawnerClient, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    room = await open_room("cat")
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 0.3)
    old = make_old(spawner)
    os.kill(old, signal.SIGSTOP)

    with pytest.raises(BackendError, match=r"cannot start 'cat': it did not start within 0.3 s"):
        await open_room("cat")

    monkeypatch.undo()
    await until(lambda: spawner.pid not in {old, None})
    assert [event["event"] for event in logged if event["log_level"] == "error"][:1] == ["spawner not answering"]
    room.backend.write(b"still here\n")
    await room.wait_output(b"still here\n")
    await room.stop()
    await (await open_room("cat")).stop()


async def test_rooms_go_on_without_descriptors_to_watch_adopted_children(
    spawner: SpawnerClient, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopted_children, "CHECK_INTERVAL", 0.05)
    rooms = [await open_room("cat") for _ in range(20)]
    lowest = os.dup(0)
    os.close(lowest)

    with open_file_limit(lowest + 8):
        await kill_spawner(spawner)

    for room in rooms:
        room.backend.write(b"still here\n")
        await room.wait_output(b"still here\n")
    assert {(await room.stop()).status for room in rooms} == {0}


async def test_starts_fail_while_there_is_no_spawner(spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner_client, "RETRY_PAUSE", 0.2)
    assert spawner.pid is not None
    os.kill(spawner.pid, signal.SIGKILL)
    await until(lambda: spawner.pid is None)

    with pytest.raises(SpawnerError, match="the spawner is not running"):
        await spawner.spawn(CAT)

    await until(lambda: spawner.pid is not None)
    (await spawner.spawn(CAT)).discard()
    await until(lambda: not spawner.groups)
