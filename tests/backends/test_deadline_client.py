"""What a gateway that runs does at the deadline of its backends."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from scalesocket.backends import kill_deadline
from scalesocket.backends.kill_deadline import boottime
from scalesocket.backends.spawner_client import SpawnerClient
from scalesocket.backends.spawner_process import SpawnerProcess
from scalesocket.errors import BackendError
from tests.backends.recording import OpenRoom, until
from tests.backends.spawners import kill_spawner

pytestmark = pytest.mark.anyio


@pytest.fixture
def expired(spawner: SpawnerClient) -> list[float]:
    """When deadlines have passed."""
    times: list[float] = []
    spawner.on_expired(lambda: times.append(boottime()))
    return times


async def test_backends_are_killed_and_none_is_started_until_there_is_another_deadline(
    spawner: SpawnerClient, open_room: OpenRoom, expired: list[float]
) -> None:
    room = await open_room("cat")
    deadline = boottime() + 0.2
    spawner.set_deadline(deadline)

    assert (await room.end()).signal == signal.SIGKILL

    await until(lambda: len(expired) == 1)
    assert deadline - 0.01 < expired[0]
    with pytest.raises(BackendError, match="cannot start 'cat': this server has lost its lease of the rooms"):
        await open_room("cat")
    spawner.set_deadline(boottime() + 60)
    assert (await (await open_room("cat")).stop()).status == 0
    assert len(expired) == 1


async def test_the_spawner_refuses_a_start_that_comes_after_the_deadline(
    spawner: SpawnerClient, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the gateway is stopped right after it looked at the clock."""
    with monkeypatch.context() as patch:
        patch.setattr(kill_deadline, "boottime", lambda: 0.0)
        spawner.set_deadline(boottime() - 1)
        with pytest.raises(BackendError, match="this server has lost its lease of the rooms"):
            await open_room("cat")

    spawner.set_deadline(None)
    assert (await (await open_room("cat")).stop()).status == 0


async def test_a_deadline_can_be_removed(spawner: SpawnerClient, open_room: OpenRoom, expired: list[float]) -> None:
    room = await open_room("cat")
    spawner.set_deadline(boottime() + 0.2)
    spawner.set_deadline(None)
    await asyncio.sleep(0.3)

    room.backend.write(b"still here\n")

    await room.wait_output(b"still here\n")
    assert (await room.stop()).status == 0
    assert expired == []


async def test_a_deadline_that_passed_unnoticed_counts_before_the_next_one(
    spawner: SpawnerClient, open_room: OpenRoom, expired: list[float]
) -> None:
    room = await open_room("cat")
    spawner.set_deadline(boottime() - 0.001)

    spawner.set_deadline(boottime() + 60)

    assert len(expired) == 1
    assert (await room.end()).signal == signal.SIGKILL


async def test_backends_are_killed_while_there_is_no_spawner(
    spawner: SpawnerClient, open_room: OpenRoom, expired: list[float]
) -> None:
    room = await open_room("cat")
    os.kill(spawner.pid or 0, signal.SIGKILL)
    await until(lambda: spawner.pid is None)  # it was young, so it is replaced after a pause

    spawner.set_deadline(boottime() + 0.1)

    assert (await room.end()).signal == signal.SIGKILL
    assert len(expired) == 1
    await until(lambda: spawner.pid is not None)
    with pytest.raises(BackendError, match="lost its lease"):
        await open_room("cat")


async def test_a_connection_to_a_target_is_guarded_until_it_ends(
    spawner: SpawnerClient, open_room: OpenRoom, tmp_path: Path
) -> None:
    ends = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(await reader.read())
        writer.close()
        done.set()

    server = await asyncio.start_unix_server(serve, tmp_path / "target")
    spawner.set_deadline(boottime() + 60)
    guarded = spawner._kill_deadline._sockets
    first = await open_room(unix=tmp_path / "target")
    second = await open_room(unix=tmp_path / "target")
    assert len(guarded) == 2
    await kill_spawner(spawner)

    await first.stop()
    await done.wait()

    assert len(guarded) == 1
    assert ends == [b""]
    spawner.set_deadline(boottime())
    assert (await second.end()).is_success
    await until(lambda: not guarded)
    with pytest.raises(BackendError, match="lost its lease"):
        await open_room(unix=tmp_path / "target")
    server.close()


async def test_without_a_deadline_nothing_more_is_sent(
    spawner: SpawnerClient, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[bytes] = []
    send = SpawnerProcess.send

    def count(process: SpawnerProcess, packet: bytes, *arguments: object) -> bool:
        sent.append(packet)
        return send(process, packet, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SpawnerProcess, "send", count)
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "target")
    room, target = await open_room("cat"), await open_room(unix=tmp_path / "target")

    await target.stop()
    await room.stop()

    assert len(sent) == 2  # spawn, release
    server.close()
