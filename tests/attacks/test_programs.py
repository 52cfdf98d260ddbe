"""Programs that stop, that do not read, or that start as many processes as they can; the rooms of others are not affected."""

import asyncio
import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.attacks import deaf_program
from tests.attacks.victim import CHAT, HEAD, echo, join, serve
from tests.conftest import Serve
from tests.playing import PROGRAMS, is_alive, program, until
from tests.raw import PING, TEXT, RawClient

pytestmark = pytest.mark.anyio

MiB: Final = 1024 * 1024
NOBODY: Final = "nobody"
PROCESSES: Final = 12
PYTHON: Final = shutil.which("python3", path="/usr/bin") or sys.executable
"""One that other users may run, which those of a home folder are not."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_stopped_program_delays_its_own_room_and_loses_nothing(serve_express: Serve) -> None:
    """It is stopped with SIGSTOP for longer than any message takes, with input and output under way, and then goes on."""
    site = await serve_express(game={"command": ["cat"]})
    ann, bob = await site.join("/game/one"), await site.join("/game/two")
    await ann.say("before")
    await ann.hear("before")
    pid = site.room("game", "one").status().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        messages = [f"{number:01000}" for number in range(300)]
        for message in messages:  # more than the pipe holds, less than the room's queue
            await ann.say(message)
        for number in range(100):
            await bob.say(f"{number}")
            await bob.hear(f"{number}")
        await ann.hear_nothing(within=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)

    await ann.hear(*messages)


async def test_a_stopped_program_is_stopped_for_good_when_its_room_ends(serve_express: Serve) -> None:
    site = await serve_express(game={"command": ["cat"], "stop_timeout": 0.3})
    ann = await site.join("/game/one")
    await ann.say("before")
    await ann.hear("before")
    pid = site.room("game", "one").status().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    await ann.leave()

    await site.wait_no_rooms()
    assert not is_alive(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user, and root has no limit of processes")
async def test_a_fork_bomb_gets_as_many_processes_as_its_limit_and_ends_with_its_room(tmp_path: Path) -> None:
    bomb = Path("/tmp") / f"scalesocket-bomb-{os.getpid()}.py"  # where the other user can read it
    shutil.copy(PROGRAMS / "fork_bomb.py", bomb)
    limit = PROCESSES + count_processes(NOBODY)
    app = f"""
[apps.bomb]
command = ["{PYTHON}", "{bomb}", "wait"]
cwd = "/tmp"
user = "{NOBODY}"
limits = {{ processes = {limit} }}
stop_timeout = "500ms"
"""
    try:
        with serve(tmp_path, HEAD + CHAT + app) as server:
            async with join(server) as ann:
                async with join(server, "/bomb/one") as eve:
                    eve.say("go")
                    slowest = max([await echo(ann, f"{number}") for number in range(200)])
                    started, failed = await hear_counts(eve)
                    assert len(processes_with(bomb)) == started + 1  # the children and the program
                await until(lambda: not processes_with(bomb))
                await echo(ann, "still here")
    finally:
        bomb.unlink()
    assert started < limit
    assert started + failed == 500
    assert slowest < 1.0


async def hear_counts(client: RawClient) -> tuple[int, int]:
    while (frame := await client.read_frame()).opcode == PING:
        pass
    assert frame.opcode == TEXT, frame
    started, failed = map(int, frame.payload.split())
    return started, failed


def count_processes(user: str) -> int:
    """Count all processes of a user, which share the limit."""
    uid = pwd.getpwnam(user).pw_uid
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError):
            count += entry.stat().st_uid == uid
    return count


def processes_with(word: Path) -> set[int]:
    """Find the processes that have this word in their command line."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(word) in (entry / "cmdline").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


async def test_a_hundred_megabytes_for_a_program_that_does_not_read_stay_with_their_sender(tmp_path: Path) -> None:
    figures = await deaf_program.attack(tmp_path)

    assert figures.taken < 8 * MiB  # a queue of the room, and the buffers of the kernel
    assert figures.growth < 16 * MiB
    assert figures.echoes > 20
    assert figures.slowest < 1.0


async def test_a_hundred_clients_receive_everything_beside_one_that_never_reads(serve_express: Serve) -> None:
    lines, width = 4_000, 1_000
    site = await serve_express(game={"command": program("alarm", lines, width), "send_buffer": 256 * 1024})
    deaf = await site.join_raw("/game/one", receive_buffer=4096)
    readers = [await site.join_raw("/game/one") for _ in range(100)]

    readers[0].say("go")
    async with asyncio.timeout(30):
        received = await asyncio.gather(*(read_hash(reader, lines * (width + 4)) for reader in readers))

    expected = b"".join(b"\x81\x7e\x03\xe8%0*d" % (width, number) for number in range(lines))
    assert set(received) == {hashlib.blake2b(expected).digest()}
    await site.until(lambda: site.gateway.pools["game"].status().counts.slow_clients == 1)
    deaf.cut()


async def read_hash(client: RawClient, size: int) -> bytes:
    """Read so many bytes; return their hash."""
    digest = hashlib.blake2b()
    while size:
        chunk = await client.reader.read(min(size, 1 << 20))
        assert chunk, f"{size} bytes are missing"
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()
