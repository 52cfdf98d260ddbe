"""What becomes of processes when the gateway or the spawner goes, and starts in great number."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from scalesocket.backends import adopted_children, orphan_reaper, pending_starts, spawner_client
from scalesocket.backends import child as child_module
from scalesocket.backends.child import Child, SpawnRequest
from scalesocket.backends.orphan_reaper import reap_orphans
from scalesocket.backends.pending_starts import PendingStart, PendingStarts
from scalesocket.backends.process_groups import find_unreported_children
from scalesocket.backends.spawner.group_table import FIRST, USED, GroupTable
from scalesocket.backends.spawner.guardian import find_remaining_groups, find_unlisted_children
from scalesocket.backends.spawner.processes import ProcessStat
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.backends.spawner_stderr import SpawnerStderr
from scalesocket.errors import BackendError, SpawnerError
from scalesocket.io.poller import Poller
from tests.backends.lobby import (
    PROGRAMS,
    Opener,
    children,
    exists,
    is_alive,
    open_fds,
    open_file_limit,
    parse_state,
    program,
    until,
)

pytestmark = pytest.mark.anyio

CAT = SpawnRequest(argv=("cat",), env={"PATH": os.environ["PATH"]}, cwd="/")


class Gateway:
    """A gateway in a process of its own."""

    def __init__(self, process: Process, spawner: int) -> None:
        self.process = process
        self.spawner = spawner

    async def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(10):
            return (await self.process.stdout.readline()).decode()

    async def open(self, *command: str, **keys: object) -> set[int]:
        """The pids of a room's processes."""
        return set(json.loads(await self.ask(json.dumps({"command": command, **keys}))))

    async def kill_spawner(self) -> None:
        self.spawner = int(await self.ask("kill"))

    async def guardian(self) -> int:
        return int(await self.ask("guardian"))

    async def kill(self) -> None:
        self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def started_gateway() -> AsyncIterator[Gateway]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAMS / "gateway.py"),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(PROGRAMS.parent.parent)},
    )
    assert process.stdout is not None
    gateway = Gateway(process, int(await process.stdout.readline()))
    yield gateway
    if process.returncode is None:
        await gateway.kill()
    await until(lambda: not is_alive(gateway.spawner))
    reap()


@pytest.fixture
async def gateway(loop: asyncio.AbstractEventLoop) -> AsyncIterator[Gateway]:
    async with started_gateway() as gateway:
        yield gateway


def reap() -> None:
    """Reap what lost its parents to a kill: since an earlier test this process may be a child subreaper, and so theirs."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def open_all_kinds(gateway: Gateway) -> set[int]:
    return {
        *await gateway.open(*program("nest")),
        *await gateway.open("sh", "-c", "trap '' TERM HUP INT; echo $$; while :; do sleep 60; done"),
        *await gateway.open("sh", "-c", "sleep 60 & echo $!"),
        *await gateway.open("sh", "-c", "(sleep 60 & echo $!); exec cat"),
        *await gateway.open(*program("grandchild", 60, "quiet")),
    }


async def test_a_killed_gateway_leaves_nothing(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    assert len(pids) == 3 + 1 + 2 + 2 + 2
    await until(lambda: sum(map(is_alive, pids)) == 8)  # two leaders have ended, and left somebody behind

    await gateway.kill()

    await until(lambda: not any(map(is_alive, {*pids, gateway.spawner})))


async def test_a_gateway_that_is_killed_after_its_spawner_leaves_nothing(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    await gateway.kill_spawner()
    pids |= await gateway.open(*program("nest"))
    await gateway.kill_spawner()
    pids |= await gateway.open(*program("nest"))
    await until(lambda: sum(map(is_alive, pids)) == 8 + 3 + 3)

    await gateway.kill()

    await until(lambda: not any(map(is_alive, {*pids, gateway.spawner})))


async def test_a_gateway_that_ends_by_itself_leaves_nothing(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)

    assert gateway.process.stdin is not None
    gateway.process.stdin.close()

    await gateway.process.wait()
    await until(lambda: not any(map(is_alive, {*pids, gateway.spawner})))


KILLS = {
    "the gateway first": "kill -9 {gateway}; kill -9 {spawner}",
    "the spawner first": "kill -9 {spawner}; kill -9 {gateway}",
    "both": "kill -9 {gateway} {spawner}",
}


async def kill_both(gateway: Gateway, how: str = "both") -> None:
    """Kill the gateway and its spawner in one instant."""
    command = KILLS[how].format(gateway=gateway.process.pid, spawner=gateway.spawner)
    await (await asyncio.create_subprocess_exec("sh", "-c", command)).wait()
    await gateway.process.communicate()


@pytest.mark.parametrize("how", KILLS)
async def test_nothing_outlives_a_gateway_and_a_spawner_killed_together(loop: asyncio.AbstractEventLoop, how: str) -> None:
    for _ in range(2):
        async with started_gateway() as gateway:
            pids = await open_all_kinds(gateway)
            pids |= await gateway.open(*program("nest"), port="auto")
            if os.geteuid() == 0:
                pids |= await gateway.open("sh", "-c", "sleep 60 & echo $!; exec sleep 60", user="nobody")
            pids |= await gateway.open("sh", "-c", "sleep 60 & echo $!; exec sleep 60", limits={"open_files": 64})
            guardian = await gateway.guardian()

            await kill_both(gateway, how)

            await until(lambda pids=pids: not any(map(is_alive, pids)), within=2.0)
            await until(lambda guardian=guardian: not is_alive(guardian))


async def test_what_is_being_started_does_not_outlive_gateway_and_spawner(loop: asyncio.AbstractEventLoop) -> None:
    for delay in (0.0, 0.01, 0.03):
        async with started_gateway() as gateway:
            marker = f"7{time.monotonic_ns() % 10**9}"
            await gateway.ask(f"storm sleep {marker}")
            await asyncio.sleep(delay)

            await kill_both(gateway)

            await until(lambda marker=marker: not running(marker), within=2.0)


async def test_what_a_former_spawner_started_does_not_outlive_gateway_and_spawner(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    former = await gateway.guardian()
    await gateway.kill_spawner()
    await until(lambda: not exists(former))
    pids |= await gateway.open(*program("nest"))

    await kill_both(gateway)

    await until(lambda: not any(map(is_alive, pids)), within=2.0)


async def test_a_guardian_that_is_killed_is_replaced(gateway: Gateway) -> None:
    pids = await open_all_kinds(gateway)
    first = await gateway.guardian()
    await asyncio.sleep(1.1)  # one that dies young is replaced after a pause

    os.kill(first, signal.SIGKILL)

    async with asyncio.timeout(10):
        while await gateway.guardian() == first:  # noqa: ASYNC110 there is no event of it
            await asyncio.sleep(0.01)
    pids |= await gateway.open(*program("nest"))
    await kill_both(gateway)
    await until(lambda: not any(map(is_alive, pids)), within=2.0)


async def test_what_ends_the_spawner_by_name_or_group_does_not_end_the_guardian(spawner: SpawnerClient) -> None:
    guardian = spawner.guardian
    assert guardian is not None

    await until(lambda: names(guardian) == ("room-guard", f"room guard of {os.getpid()}"))
    assert os.getpgid(guardian) == guardian


def names(pid: int) -> tuple[str, str]:
    """What pkill and pkill -f look at."""
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n"), Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")


def process(
    pid: int, group: int, *, started: int, session: int | None = None, parent: int = 1, niceness: int = 19
) -> ProcessStat:
    """A process as the guardian sees it."""
    return ProcessStat(pid, parent, group, os.getsid(0) if session is None else session, niceness, started)


def test_the_guardian_finds_groups_that_were_added_and_no_strangers() -> None:
    added_at = {10: 500, 20: 500, 30: 500, 40: 500, 50: 500, 60: 500}
    processes = [
        process(10, 10, started=500),
        process(11, 10, started=950),
        process(20, 20, started=901),  # its number was given to somebody else
        process(21, 20, started=901),
        process(31, 30, started=700),  # its leader has ended
        process(41, 40, started=901),  # likewise, but a stranger
        process(50, 50, started=400, session=-1),
        process(60, 99, started=450),  # a leader that has joined another group
        process(70, 70, started=500),
    ]

    assert find_remaining_groups(processes, added_at, orphaned_at=900) == {10, 30, 60}


def test_the_guardian_finds_what_was_being_started() -> None:
    parent = os.getppid()
    processes = [
        process(10, 10, started=895, parent=parent),
        process(11, 7, started=900, parent=parent),  # not yet in a group of its own
        process(20, 20, started=894, parent=parent),  # before
        process(21, 21, started=901, parent=parent),  # after
        process(22, 22, started=895, parent=parent + 1),
        process(23, 23, started=895, parent=parent, session=-1),
        process(24, 24, started=895, parent=parent, niceness=-20),
        process(25, 10, started=895, parent=parent),
        process(os.getpid(), os.getpid(), started=895, parent=parent),
    ]

    assert find_unlisted_children(processes, since=895, orphaned_at=900, spawner=7) == {10, 11}


def test_places_of_the_table_are_used_again() -> None:
    groups = GroupTable()
    first, second = groups.add(100), groups.add(200)
    groups.remove(first)

    third = groups.add(300)

    assert third == first != second
    assert set(groups.added_at()) == {200, 300}
    assert groups.words[USED] == FIRST + 2


def test_a_group_that_finds_no_place_in_the_table_is_left_out() -> None:
    groups = GroupTable()
    groups.words[USED] = len(groups.words)

    place = groups.add(100)
    groups.remove(place)

    assert place == 0
    assert groups.starting_since == 0


async def kill_spawner(spawner: SpawnerClient) -> None:
    """Kill it with SIGKILL, and wait for the next."""
    old = make_old(spawner)
    os.kill(old, signal.SIGKILL)
    await until(lambda: spawner.pid not in {old, None})


def make_old(spawner: SpawnerClient) -> int:
    """Make the spawner old enough to be replaced at once when it dies; return its pid."""
    assert spawner._process is not None
    spawner._process.started_at -= spawner_client.SHORT_LIFE
    return spawner._process.pid


async def test_rooms_go_on_when_the_spawner_is_killed(open_room: Opener, spawner: SpawnerClient) -> None:
    rooms = [await open_room("cat") for _ in range(5)]

    await kill_spawner(spawner)

    for room in rooms:
        room.backend.write(b"still here\n")
        await room.hear(b"still here\n")
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


async def test_orphans_of_programs_are_reaped_after_the_death_of_their_spawner(
    spawner: SpawnerClient, open_room: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphan_reaper, "INTERVAL", 0.05)
    room = await open_room("sh", "-c", "setsid sleep 60 & echo $!; wait")
    orphan = int(await room.hear_line())
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


async def test_the_end_of_an_adopted_process_is_reported(open_room: Opener, spawner: SpawnerClient) -> None:
    calm = await open_room("sh", "-c", "read line; exit 3")
    wild = await open_room("sh", "-c", "read line; kill -ABRT $$")
    await kill_spawner(spawner)

    calm.backend.write(b"\n")
    wild.backend.write(b"\n")

    assert (await calm.end()).status == 3
    assert (await wild.end()).signal == signal.SIGABRT


async def test_the_whole_group_of_an_adopted_process_is_killed_and_reaped(open_room: Opener, spawner: SpawnerClient) -> None:
    room = await open_room(*program("nest"))
    pids = [int(word) for word in (await room.hear_line()).split()]
    await kill_spawner(spawner)

    outcome = await room.stop(timeout=0.5)

    assert outcome.signal == signal.SIGTERM
    assert not any(map(exists, pids))


async def test_a_process_that_ended_before_the_spawner_was_killed_is_released(open_room: Opener, spawner: SpawnerClient) -> None:
    room = await open_room(*program("grandchild", 60, "quiet"))
    pid = int(await room.hear_line())
    assert (await room.backend.wait_exit()).status == 0

    await kill_spawner(spawner)

    await room.end()
    assert not exists(pid)


async def test_a_stop_that_runs_when_the_spawner_is_killed_ends_well(open_room: Opener, spawner: SpawnerClient) -> None:
    rooms = [await open_room(*program("stubborn")) for _ in range(5)]
    for room in rooms:
        await room.hear(b"stubborn\n")
    stops = [asyncio.ensure_future(room.stop(timeout=0.05 * number)) for number, room in enumerate(rooms)]
    await rooms[-1].hear(b"SIGTERM\n")

    await kill_spawner(spawner)

    assert {(await stop).signal for stop in stops} == {signal.SIGKILL}
    assert not any(exists(room.backend.pid or 0) for room in rooms)


async def test_starts_in_flight_when_the_spawner_is_killed_are_done_by_the_next(spawner: SpawnerClient) -> None:
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
    await until(lambda: len(running(marker)) == len(started))  # those that were started and never answered are gone
    for child in started:
        child.discard()
    await until(lambda: not spawner.groups)
    assert running(marker) == []


def test_strays_are_looked_for_while_threads_come_and_go() -> None:
    is_over = threading.Event()

    def start_threads() -> None:
        while not is_over.is_set():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

    starters = [threading.Thread(target=start_threads) for _ in range(4)]
    for starter in starters:
        starter.start()
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            find_unreported_children(os.getpid(), lambda _: False, 0.0)
    finally:
        is_over.set()
        for starter in starters:
            starter.join()


async def test_helpers_of_running_programs_live_on_when_the_spawner_dies(open_room: Opener, spawner: SpawnerClient) -> None:
    helper = "set -m; (sleep 60 & echo $! >&3) 3>&1 >/dev/null; cat"  # of a group of its own, and an orphan
    room = await open_room("bash", "-c", helper)
    pid = int(await room.hear_line())
    await asyncio.sleep(1.1)  # older than any start that could be under way

    starting = asyncio.ensure_future(spawner.spawn(CAT))
    await asyncio.sleep(0)
    await kill_spawner(spawner)

    (await starting).discard()
    assert is_alive(pid)
    await room.stop()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead


def running(marker: str) -> list[int]:
    """Processes with this word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


async def test_a_program_is_started_from_where_it_is_now(spawner: SpawnerClient, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    request = SpawnRequest(argv=("here",), env={"PATH": f"{first}:{second}"}, cwd="/")

    async def said() -> str:
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
    assert await said() == "second\n"
    (second / "here").rename(tmp_path / "there")
    with pytest.raises(SpawnerError, match="no such file"):
        await said()
    (tmp_path / "there").rename(second / "here")
    assert await said() == "second\n"
    install(first)  # what comes earlier in PATH is seen when the spawner looks again
    async with asyncio.timeout(10):
        while await said() != "first\n":
            pass


async def test_a_spawner_that_hangs_is_replaced(
    spawner: SpawnerClient, open_room: Opener, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    room = await open_room("cat")
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 0.3)
    old = make_old(spawner)
    os.kill(old, signal.SIGSTOP)

    with pytest.raises(BackendError, match=r"cannot start 'cat': it did not start within 0.3 s"):
        await open_room("cat")

    await until(lambda: spawner.pid not in {old, None})
    assert [event["event"] for event in logged if event["log_level"] == "error"][:1] == ["spawner not answering"]
    room.backend.write(b"still here\n")
    await room.hear(b"still here\n")
    await room.stop()
    await (await open_room("cat")).stop()


async def test_starts_that_wait_are_asked_for_when_the_clock_reads_the_answers_of_others(
    spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 1.0)
    woken, wake = os.pipe()
    loop = asyncio.get_running_loop()

    def be_slow() -> None:
        os.read(woken, 1)
        time.sleep(0.4)

    loop.add_reader(woken, be_slow)
    first = await spawner.spawn(CAT)  # sets the clock
    await asyncio.sleep(0.8)
    waits = [asyncio.ensure_future(spawner.spawn(CAT)) for _ in range(2 * pending_starts.MAX_IN_FLIGHT + 5)]
    await asyncio.sleep(0)
    os.write(wake, b"x")

    async with asyncio.timeout(5):
        for child in (first, *await asyncio.gather(*waits)):
            child.discard()
    await until(lambda: not spawner.groups)
    loop.remove_reader(woken)
    os.close(woken)
    os.close(wake)


async def test_the_clock_does_not_mind_that_there_is_no_spawner(spawner: SpawnerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_starts, "SPAWN_TIMEOUT", 0.3)
    monkeypatch.setattr(spawner_client, "RETRY_PAUSE", 0.6)
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: faults.append(report))
    (await spawner.spawn(CAT)).discard()
    assert spawner.pid is not None
    os.kill(spawner.pid, signal.SIGKILL)
    await until(lambda: spawner.pid is None)

    await until(lambda: spawner._deadline is None and spawner.pid is None)
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
    await kill_spawner(spawner)  # which has started nobody, and starts nobody now
    assert spawner.groups == frozenset()


async def test_a_child_that_comes_too_late_for_one_who_was_cancelled_is_killed() -> None:
    start = PendingStart(1, b"")
    waiting = asyncio.create_task(start.wait())
    await asyncio.sleep(0)
    starts = PendingStarts()
    starts.waiting.append(start)
    starts.note_sent(now=0.0)
    waiting.cancel()
    starts.fail_late(now=100.0)
    await asyncio.sleep(0)
    assert not waiting.done()  # the spawner still has it

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


async def test_starts_that_were_cancelled_while_the_spawner_hangs_hold_up_nobody(
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

    async with asyncio.timeout(5):
        child = await spawner.spawn(CAT)
    assert spawner.pid != old
    child.discard()
    await until(lambda: not spawner.groups)


async def test_a_start_that_is_cancelled_as_it_is_answered_is_waited_for(spawner: SpawnerClient) -> None:
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
        time.sleep(0.02)  # noqa: ASYNC251 - so that the answer and the wish to cancel are read in the same turn
        await asyncio.wait((starting,))
        assert not spawner.groups
    asyncio.get_running_loop().remove_reader(woken)
    os.close(woken)
    os.close(wake)


async def test_a_stop_does_not_need_a_spawner_that_answers(
    spawner: SpawnerClient, open_room: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "RELEASE_TIMEOUT", 0.3)
    room = await open_room(*program("nest"))
    pids = [int(word) for word in (await room.hear_line()).split()]
    assert spawner.pid is not None
    os.kill(spawner.pid, signal.SIGSTOP)

    outcome = await room.stop(timeout=0.1)

    assert outcome.signal == signal.SIGKILL
    assert not any(map(is_alive, pids))
    os.kill(spawner.pid, signal.SIGCONT)
    await until(lambda: not spawner.groups)


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


async def test_the_signals_of_a_terminal_do_not_end_the_spawner(spawner: SpawnerClient, open_room: Opener) -> None:
    old = spawner.pid
    assert old is not None
    assert os.getpgid(old) == old != os.getpgid(0)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(old, number)

    room = await open_room("sh", "-c", "kill -INT $$")
    assert (await room.end()).signal == signal.SIGINT
    assert spawner.pid == old


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


async def test_a_process_that_ended_keeps_its_number_until_it_is_released(spawner: SpawnerClient) -> None:
    child = await spawner.spawn(CAT)
    os.close(child.stdin)
    child.stdin = -1
    await child.wait_exit()
    assert exists(child.pid)
    assert not is_alive(child.pid)

    child.discard()

    await child.wait_released()
    assert not exists(child.pid)


async def test_a_start_that_finds_no_descriptor_left_fails_and_leaves_nothing(spawner: SpawnerClient) -> None:
    before = open_fds()
    lowest = os.dup(0)
    os.close(lowest)

    for free in range(3):
        with open_file_limit(lowest + free), pytest.raises(SpawnerError, match="too many open files"):
            await spawner.spawn(CAT)

    await until(lambda: not spawner.groups)
    assert open_fds() == before


async def test_rooms_go_on_without_a_descriptor_to_watch_them_by(
    spawner: SpawnerClient, open_room: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopted_children, "CHECK_INTERVAL", 0.05)
    rooms = [await open_room("cat") for _ in range(20)]
    lowest = os.dup(0)
    os.close(lowest)

    with open_file_limit(lowest + 8):
        await kill_spawner(spawner)

    for room in rooms:
        room.backend.write(b"still here\n")
        await room.hear(b"still here\n")
    assert {(await room.stop()).status for room in rooms} == {0}


@pytest.mark.parametrize(
    ("python", "why"), [("/bin/false", "ended before it was ready"), ("/no/such/python", "No such file or directory")]
)
def test_a_spawner_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, python: str, why: str) -> None:
    before = open_fds()
    monkeypatch.setattr(sys, "executable", python)

    with pytest.raises(SpawnerError, match=f"^cannot start the spawner: .*{why}"):
        SpawnerClient().start()

    assert open_fds() == before
    assert children() == []


async def test_a_fault_of_the_spawner_is_one_event_of_the_log(
    poller: Poller, logged: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a write to the log itself, whose reader may have stalled."""
    spawner, pipe2 = SpawnerClient(), os.pipe2
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", lambda flags: pipe2(flags | os.O_DIRECT))  # each write is a read of its own
        spawner.start()
    spawner.attach(poller)

    with pytest.raises(SpawnerError, match="TypeError"):
        await spawner.spawn(SpawnRequest(argv=cast("tuple[str, ...]", (1,)), env={}, cwd="/"))

    await until(lambda: any(event["event"] == "spawner failed" for event in logged))
    [error] = [event for event in logged if event["event"] == "spawner failed"]
    assert str(error["exception"]).startswith("Traceback")
    assert "TypeError" in str(error["exception"])
    spawner.close()


async def test_a_traceback_that_is_written_line_by_line_is_one_event(logged: list[dict[str, object]]) -> None:
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    stderr = SpawnerStderr(read_end, 77)
    stderr.watch(asyncio.get_running_loop())

    for line in (b"Traceback:\n", b"  here\n", b"TypeError\n"):
        os.write(write_end, line)
        await asyncio.sleep(0.01)  # it is read
    await until(lambda: bool(logged))
    os.write(write_end, b"and at the end")
    os.close(write_end)
    stderr.close()

    assert [event["exception"] for event in logged] == ["Traceback:\n  here\nTypeError", "and at the end"]


async def test_children_get_the_limit_of_open_files_from_before_it_was_raised(
    poller: Poller, open_room: Opener, spawner: SpawnerClient
) -> None:
    other = SpawnerClient()
    with open_file_limit(300):
        other.start()
    other.attach(poller)
    request = SpawnRequest(argv=("sh", "-c", "ulimit -n"), env={"PATH": os.environ["PATH"]}, cwd="/")

    for _ in range(2):
        child = await other.spawn(request)
        await child.wait_exit()
        assert os.read(child.stdout, 99) == b"300\n"
        child.discard()
        await child.wait_released()
        await kill_spawner(other)

    cats = await asyncio.gather(*(other.spawn(CAT) for _ in range(400)))  # more than the limit of each
    for cat in cats:
        cat.discard()
    for cat in cats:
        await cat.wait_released()
    other.close()


async def test_what_the_gateway_ignores_its_children_do_not(poller: Poller) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    spawner = SpawnerClient()
    try:
        spawner.start()
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    spawner.attach(poller)

    child = await spawner.spawn(SpawnRequest(argv=program("state"), env={}, cwd="/"))
    await child.wait_exit()

    state = parse_state(os.read(child.stdout, 65536).decode())
    assert state["blocked"] == []
    assert state["ignored"] == ["SIGPIPE", "SIGXFSZ"]  # Python's own doing
    child.discard()
    await child.wait_released()
    spawner.close()


async def test_closing_kills_what_is_left(poller: Poller) -> None:
    spawner = SpawnerClient()
    spawner.start()
    spawner.attach(poller)
    child = await spawner.spawn(SpawnRequest(argv=("sleep", "60"), env={"PATH": os.environ["PATH"]}, cwd="/"))
    adopted = await spawner.spawn(SpawnRequest(argv=("sleep", "60"), env={"PATH": os.environ["PATH"]}, cwd="/"))
    await kill_spawner(spawner)
    later = await spawner.spawn(SpawnRequest(argv=("sleep", "60"), env={"PATH": os.environ["PATH"]}, cwd="/"))

    spawner.close()
    spawner.close()

    assert not any(is_alive(each.pid) for each in (child, adopted, later))
    assert (await adopted.wait_exit()).signal == signal.SIGKILL
    assert (await later.wait_exit()).signal == signal.SIGKILL
    for each in (child, adopted, later):
        each.discard()
    with pytest.raises(SpawnerError, match="the spawner is not running"):
        await spawner.spawn(CAT)
    assert children() == []


async def test_backends_are_of_the_session_of_the_gateway_and_have_no_terminal(loop: asyncio.AbstractEventLoop) -> None:
    ours, its = os.openpty()
    process = await asyncio.create_subprocess_exec(
        "setsid",
        "--ctty",
        sys.executable,
        str(PROGRAMS / "gateway.py"),
        stdin=its,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(PROGRAMS.parent.parent)},
    )
    os.close(its)
    assert process.stdout is not None
    spawner = int(await process.stdout.readline())

    os.write(ours, json.dumps({"command": ["sh", "-c", "(exec 3<>/dev/tty) 2>/dev/null; echo $?; exec cat"]}).encode() + b"\n")
    pid, status = json.loads(await process.stdout.readline())

    assert status != 0
    assert os.getsid(pid) == os.getsid(process.pid)
    os.close(ours)
    process.kill()
    await process.communicate()
    await until(lambda: not is_alive(spawner))
    reap()


async def test_backends_are_a_little_nicer_than_the_gateway(open_room: Opener) -> None:
    room = await open_room("nice")

    await room.end()

    assert int(room.heard) == os.nice(0) + 3
