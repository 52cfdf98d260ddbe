"""Starts of a server of several workers: its sockets, its certificate, its limits, and what keeps it from starting."""

import asyncio
import itertools
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as tls_connect
from websockets.sync.client import connect, unix_connect

from tests.cli.serving import DEADLINE, serving
from tests.playing import Player
from tests.server.test_http2 import make_certificate
from tests.workers.serving import children, descendants, kill, serving_workers


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


def test_workers_listen_at_unix_sockets_inherited_sockets_and_several_addresses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        port = inherited.getsockname()[1]
        os.set_inheritable(inherited.fileno(), True)
        script = f"""
import os, sys
os.dup2({inherited.fileno()}, 3)
os.set_inheritable(3, True)
os.execv(sys.argv[1], sys.argv[1:])
"""
        file = tmp_path / "site.toml"
        file.write_text(
            f'[server]\nworkers = 2\ncontrol = "off"\nbind = ["127.0.0.1:0", "[::1]:0", "unix:{tmp_path}/socket", "fd://3"]\n'
            '[apps.chat]\ncommand = ["cat"]\n'
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, sys.executable, "-m", "scalesocket", "serve", str(file)],
            stdout=subprocess.PIPE,
            pass_fds=(inherited.fileno(),),
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = []
            while "/health" not in (line := process.stdout.readline()):
                assert line
                lines.append(line)
            ports = [int(line.rpartition(":")[2]) for line in lines if "listening on http" in line]
            assert len(ports) == 3
            for url in (f"ws://127.0.0.1:{ports[0]}", f"ws://[::1]:{ports[1]}", f"ws://127.0.0.1:{port}"):
                for number in range(8):
                    with connect(f"{url}/chat/room{number}") as client:
                        client.send("hello")
                        assert client.recv(timeout=20) == "hello"
            with unix_connect(str(tmp_path / "socket"), "ws://localhost/chat/lobby") as client:
                client.send("hello")
                assert client.recv(timeout=20) == "hello"
            process.terminate()
            assert process.wait(20) == 0
            assert not (tmp_path / "socket").exists()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_port_in_use_is_one_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = tmp_path / "site.toml"
        file.write_text(f'[server]\nworkers = 3\nbind = "127.0.0.1:{taken.getsockname()[1]}"\n[apps.chat]\ncommand = ["cat"]\n')

        done = subprocess.run(
            [sys.executable, "-m", "scalesocket", "serve", str(file)], capture_output=True, text=True, timeout=20, check=False
        )

    assert done.returncode == 1
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: server.bind: can't listen at")], done.stderr


def test_the_server_does_not_start_if_a_worker_cannot(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[server]\nworkers = 2\nbind = "127.0.0.1:0"\n[apps.chat]\ncommand = ["cat"]\n')
    program = (
        "import sys, scalesocket.workers.process as process; "
        "import scalesocket.workers.slot as slot; slot.END_TIMEOUT = 60; "  # on a busy machine it takes long to fail
        "start = process.start_program; "
        "process.start_program = lambda index, stdin, descriptors: start(index, stdin, descriptors if index == 0 else ()); "
        "from scalesocket.cli.main import main; main(sys.argv[1:])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, "serve", str(file)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert re.search(r"^Error: worker 1: it ended before it was ready \((exit code 1|SIGKILL); see the log\)$", done.stderr, re.M)
    assert done.stdout == ""


def test_the_server_ends_if_no_worker_can_be_started_any_more(tmp_path: Path) -> None:
    program = (
        "import sys, scalesocket.workers.process as process, scalesocket.workers.backoff as backoff; "
        "import scalesocket.workers.workers as workers; workers.MAX_FAILED_STARTS, backoff.FIRST_DELAY = 2, 0.01; "
        "start, ends = process.start_program, iter((False, False)); "
        "process.start_program = lambda index, stdin, fds: start(index, stdin, () if next(ends, True) else fds); "
        "from scalesocket.cli.main import main; main(sys.argv[4:])"
    )
    file = tmp_path / "site.toml"
    file.write_text('[server]\nworkers = 2\nbind = "127.0.0.1:0"\n[apps.chat]\ncommand = ["cat"]\n')
    with serving("serve", str(file), wrapper=(sys.executable, "-c", program)) as server:
        kill(*(pid for pid in children(server.process.pid)), number=signal.SIGKILL)

        assert server.wait_ended() == 1

        assert "CRITICAL no worker can be started" in server.output


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_workers_serve_tls_with_the_certificate_of_the_site(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=certificate)
    tls = f'bind = "127.0.0.1:0"\ntls = {{ certificate = "{certificate}", key = "{key}" }}'
    with serving_workers(tmp_path, count=2, server=tls) as site:
        url, numbers = f"wss://127.0.0.1:{site.server.port}/chat", itertools.count()

        async with AsyncExitStack() as connections:

            async def open_rooms_of_both_workers() -> None:
                """Some of the clients reach a worker that does not own their room, and passes the bytes on."""
                owners = set()
                while owners != {0, 1}:
                    opening = tls_connect(
                        f"{url}/room{next(numbers)}", ssl=trust, server_hostname="localhost", open_timeout=DEADLINE
                    )
                    player = Player(await connections.enter_async_context(opening))
                    owners.add(site.owner_of(int(await player.listen())))
                    await player.say("hello")
                    await player.hear("hello")

            await open_rooms_of_both_workers()
            # A successor has the certificate in force, whatever the files contain by now.
            before = site.workers[0]
            key.write_text("half a k")
            os.kill(before, signal.SIGKILL)
            await asyncio.to_thread(site.wait_replaced, 0, before)

            await open_rooms_of_both_workers()


def test_programs_have_the_limit_of_open_files_that_the_server_was_started_with(tmp_path: Path) -> None:
    with serving_workers(tmp_path, count=2, wrapper=("sh", "-c", 'ulimit -Sn 300; exec "$@"', "sh")) as site:
        program = site.join("lobby").read_pid()

        assert [resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] for pid in (program, site.pid)] == [
            300,
            resource.prlimit(site.pid, resource.RLIMIT_NOFILE)[1],
        ]


def test_one_worker_is_a_single_process(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[server]\nworkers = 1\nbind = "127.0.0.1:0"\n[apps.chat]\ncommand = ["cat"]\n')
    with serving("serve", str(file)) as server:
        (spawner,) = children(server.process.pid)

        assert b"spawner/main.py" in Path(f"/proc/{spawner}/cmdline").read_bytes()
        assert len(descendants(server.process.pid)) == 2  # and the guardian
