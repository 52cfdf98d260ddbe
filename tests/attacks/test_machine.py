"""Faults of the machine below the server: a full disk, and no free descriptors."""

import asyncio
import contextlib
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.attacks.victim import CHAT, HEAD, descriptors, echo, health, join, serve
from tests.cli.serving import Serving
from tests.playing import DEADLINE, until
from tests.raw import PING, TEXT, RawClient, mask_frame, upgrade

pytestmark = pytest.mark.anyio

NOISY: Final = """\
[apps.noisy]
command = ["sh", "-c", "while read line; do echo $line >&2; echo $line; done"]
stop_timeout = "1s"
"""
NOISE: Final = " ".join(["a line for the log"] * 20)
"""A dozen of them are more than what the last block of a full disk still takes."""
TMPFS: Final = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@" 2>"$0/log"'


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop of the clients; the server is a process of its own."""
    return "asyncio", {"use_uvloop": True}


# --- A full disk below the log


def fill_by_quota(server: Serving, log: Path) -> Callable[[], None]:
    """Let no file grow, as if the user's quota was used up; return what raises it."""
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))
    return lambda: resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before) and None


def fill_by_file(server: Serving, log: Path) -> Callable[[], None]:
    """Write a file that takes the rest of the disk; return what removes it."""
    ballast = log.with_name("ballast")
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    return ballast.unlink


def may_mount() -> bool:
    words = ("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    return shutil.which("unshare") is not None and not subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.parametrize("kind", ["quota", "disk"])
async def test_a_full_disk_costs_lines_of_the_log_and_nothing_else(kind: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if kind == "disk" and not may_mount():
        pytest.skip("needs the right to mount a file system")
    wrapper = (
        ("unshare", "-m", "sh", "-c", TMPFS, str(disk)) if kind == "disk" else ("sh", "-c", 'exec "$@" 2>"$0/log"', str(disk))
    )
    with serve(tmp_path, HEAD + CHAT + NOISY, wrapper=wrapper) as server:
        log = Path(f"/proc/{server.process.pid}/root{disk}/log") if kind == "disk" else disk / "log"
        fill = fill_by_file if kind == "disk" else fill_by_quota
        async with join(server) as ann:
            free = fill(server, log)
            size = log.stat().st_size
            async with join(server, "/noisy/one") as noisy:
                for number in range(50):
                    await echo(noisy, NOISE)  # it has been written to the log by then
                    await echo(ann, f"{number}")
            async with join(server, "/chat/two") as bob:
                await echo(bob, "a new room")
            assert await health(server) == b"HTTP/1.1 200"
            assert log.stat().st_size - size < 4096  # what was left of the last block

            free()
            async with join(server, "/noisy/two") as noisy:
                noisy.say(NOISE)
                await until(lambda: "dropped because the log could not be written" in log.read_text())
            await echo(ann, "still here")


# --- No free descriptor


async def test_connections_are_accepted_again_when_descriptors_are_free_again(tmp_path: Path) -> None:
    with serve(tmp_path, HEAD + CHAT) as server:
        async with join(server) as ann:
            await echo(ann, "before")
            limit = max(descriptors(server)) + 12
            before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
            others = [await RawClient.connect(server.port) for _ in range(24)]
            await until(lambda: len(descriptors(server)) >= limit - 4)
            slowest = max([await echo(ann, f"{number}") for number in range(100)])

            for other in others:
                await other.close()

            async with asyncio.timeout(DEADLINE), join(server, "/chat/two") as bob:
                await echo(bob, "accepted")
            await echo(ann, "still here")
        assert slowest < 1.0


async def test_without_descriptors_for_a_room_its_client_is_closed_and_later_rooms_start(tmp_path: Path) -> None:
    with serve(tmp_path, HEAD + CHAT) as server:
        async with join(server) as ann:
            await echo(ann, "before")
            before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
            limit = max(descriptors(server)) + 3
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
            ends = [await try_to_play(server, f"/chat/{number}") for number in range(4)]
            await echo(ann, "meanwhile")
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)

            async with asyncio.timeout(DEADLINE), join(server, "/chat/later") as bob:
                await echo(bob, "started")
        assert set(ends) & {"1011", "1013", "cut", "no answer"}, ends
        assert "Traceback" not in server.output


async def try_to_play(server: Serving, path: str) -> str:
    """Join a room and wait for an echo; return "echo", the close code, "cut" or "no answer"."""
    async with await RawClient.connect(server.port) as client:
        client.send(upgrade(path) + mask_frame(b"hello"))
        try:
            async with asyncio.timeout(1.0):
                await client.reader.readuntil(b"\r\n\r\n")
                while (frame := await client.read_frame()).opcode == PING:
                    pass
        except TimeoutError:
            return "no answer"
        except (asyncio.IncompleteReadError, ConnectionError):
            return "cut"
        return "echo" if frame.opcode == TEXT else str(int.from_bytes(frame.payload[:2], "big"))
