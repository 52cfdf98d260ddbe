"""The system's clock is set while the server runs: only the times that it shows change."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.attacks.victim import HEAD, echo, health, join, serve
from tests.playing import until
from tests.raw import RawClient, mask_frame

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(shutil.which("cc") is None, reason="replaces the clock with a C library")]

YEARS: Final = 10 * 365 * 86_400
APP: Final = """
[apps.chat]
command = ["cat"]
ping_interval = "300ms"
ping_timeout = "700ms"
client_idle_timeout = "1h"
max_lifetime = "2h"
idle_timeout = "1h"
stop_timeout = "1s"
rate = { messages = 10000, burst = 10000 }

[apps.crash]
command = ["sh", "-c", "echo up; read line; exit 1"]
restart = "on-failure"
"""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop of the clients; the server is a process of its own."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("clock") / "clock.so"
    words = ("cc", "-shared", "-fPIC", "-O1", "-o", built, Path(__file__).with_name("clock.c"), "-ldl")
    subprocess.run(words, check=True, capture_output=True)
    return built


async def answer_pings(client: RawClient, seconds: float) -> int:
    """Play for some time, and answer the server's pings; return their number."""
    pings, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        frame = await client.read_frame()
        assert frame.opcode == 9, frame
        client.send(mask_frame(frame.payload, 10))
        pings += 1
    return pings


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_clock_that_is_set_closes_no_client_and_delays_no_deadline(loop: str, library: Path, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    with serve(tmp_path, HEAD + "log = { level = 'debug' }" + APP, "--loop", loop, environment=environment) as server:
        async with join(server) as ann, join(server, "/crash/one") as bob:
            await echo(ann, "before")
            for jump in (YEARS, -YEARS):
                offset.write_text(str(jump))
                assert await answer_pings(ann, 0.8) >= 2  # and is not closed
                await echo(ann, f"after {jump}")
                await bob.hear("up")
                bob.say("crash")
                async with join(server, f"/chat/r{jump}") as newcomer:
                    await echo(newcomer, "a new room")
                assert await health(server) == b"HTTP/1.1 200"
            await bob.hear("up")  # its program was started again after each crash
            begun = time.monotonic()
            async with join(server) as mute:  # a peer that answers no ping is found as soon as ever
                while (await mute.read_frame()).opcode != 8:
                    pass
            assert time.monotonic() - begun < 3.0
            year = time.gmtime().tm_year
            await until(lambda: f"{year + 10}-" in server.output and f"{year - 10}-" in server.output)
        assert "Traceback" not in server.output
