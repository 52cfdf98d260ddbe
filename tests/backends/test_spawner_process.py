"""The spawner process: its environment and that of its children, its signals, its log, its end."""

import asyncio
import os
import signal
import sys
from typing import cast

import pytest

from scalesocket.backends import child as child_module
from scalesocket.backends.child import SpawnRequest
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.backends.spawner_stderr import SpawnerStderr
from scalesocket.errors import SpawnerError
from scalesocket.io.poller import Poller
from tests.backends.recording import (
    OpenRoom,
    children,
    exists,
    is_alive,
    open_fds,
    open_file_limit,
    parse_state,
    program,
    until,
)
from tests.backends.spawners import CAT, kill_spawner

pytestmark = pytest.mark.anyio


async def test_a_stop_does_not_need_a_spawner_that_answers(
    spawner: SpawnerClient, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "RELEASE_TIMEOUT", 0.3)
    room = await open_room(*program("nest"))
    pids = [int(word) for word in (await room.wait_line()).split()]
    assert spawner.pid is not None
    os.kill(spawner.pid, signal.SIGSTOP)

    outcome = await room.stop(timeout=0.1)

    assert outcome.signal == signal.SIGKILL
    await until(lambda: not any(map(is_alive, pids)))
    os.kill(spawner.pid, signal.SIGCONT)
    await until(lambda: not spawner.groups)


async def test_the_signals_of_a_terminal_do_not_end_the_spawner(spawner: SpawnerClient, open_room: OpenRoom) -> None:
    old = spawner.pid
    assert old is not None
    assert os.getpgid(old) == old != os.getpgid(0)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(old, number)

    room = await open_room("sh", "-c", "kill -INT $$")
    assert (await room.end()).signal == signal.SIGINT
    assert spawner.pid == old


async def test_an_ended_process_keeps_its_pid_until_it_is_released(spawner: SpawnerClient) -> None:
    child = await spawner.spawn(CAT)
    os.close(child.stdin)
    child.stdin = -1
    await child.wait_exit()
    assert exists(child.pid)
    assert not is_alive(child.pid)

    child.discard()

    await child.wait_released()
    assert not exists(child.pid)


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


async def test_a_traceback_of_the_spawner_is_one_log_event(
    poller: Poller, logged: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner, pipe2 = SpawnerClient(), os.pipe2
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", lambda flags: pipe2(flags | os.O_DIRECT))  # each write is one read
        spawner.start()
    spawner.attach(poller)

    with pytest.raises(SpawnerError, match="TypeError"):
        await spawner.spawn(SpawnRequest(argv=cast("tuple[str, ...]", (1,)), env={}, cwd="/"))

    await until(lambda: any(event["event"] == "spawner failed" for event in logged))
    [error] = [event for event in logged if event["event"] == "spawner failed"]
    assert str(error["exception"]).startswith("Traceback")
    assert "TypeError" in str(error["exception"])
    spawner.close()


async def test_a_traceback_written_line_by_line_is_one_log_event(logged: list[dict[str, object]]) -> None:
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    stderr = SpawnerStderr(read_end, 77)
    stderr.watch(asyncio.get_running_loop())

    for line in (b"Traceback:\n", b"  here\n", b"TypeError\n"):
        os.write(write_end, line)
        await asyncio.sleep(0.01)  # until it is read
    await until(lambda: bool(logged))
    os.write(write_end, b"and at the end")
    os.close(write_end)
    stderr.close()

    assert [event["exception"] for event in logged] == ["Traceback:\n  here\nTypeError", "and at the end"]


async def test_children_get_the_limit_of_open_files_from_before_the_gateway_raised_it(
    poller: Poller, open_room: OpenRoom, spawner: SpawnerClient
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

    cats = await asyncio.gather(*(other.spawn(CAT) for _ in range(400)))  # more than the soft limit allows descriptors
    for cat in cats:
        cat.discard()
    for cat in cats:
        await cat.wait_released()
    other.close()


async def test_children_do_not_inherit_ignored_and_blocked_signals(poller: Poller) -> None:
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
    assert state["ignored"] == ["SIGPIPE", "SIGXFSZ"]  # by Python itself
    child.discard()
    await child.wait_released()
    spawner.close()


async def test_closing_the_client_kills_all_children(poller: Poller) -> None:
    spawner = SpawnerClient()
    spawner.start()
    spawner.attach(poller)
    child = await spawner.spawn(SpawnRequest(argv=("sleep", "60"), env={"PATH": os.environ["PATH"]}, cwd="/"))
    adopted = await spawner.spawn(SpawnRequest(argv=("sleep", "60"), env={"PATH": os.environ["PATH"]}, cwd="/"))
    await kill_spawner(spawner)
    later = await spawner.spawn(SpawnRequest(argv=("sleep", "60"), env={"PATH": os.environ["PATH"]}, cwd="/"))

    spawner.close()
    spawner.close()

    await until(lambda: not any(is_alive(each.pid) for each in (child, adopted, later)))
    assert (await adopted.wait_exit()).signal == signal.SIGKILL
    assert (await later.wait_exit()).signal == signal.SIGKILL
    for each in (child, adopted, later):
        each.discard()
    with pytest.raises(SpawnerError, match="the spawner is not running"):
        await spawner.spawn(CAT)
    assert children() == []


async def test_the_niceness_of_backends_is_3_above_the_gateway(open_room: OpenRoom) -> None:
    room = await open_room("nice")

    await room.end()

    assert int(room.output) == os.nice(0) + 3
