"""Starts of a server of several workers: its sockets, its certificate, its limits, and what keeps it from starting."""

import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect, unix_connect

from tests.cli.serving import DEADLINE, serving
from tests.workers.serving import Player, children, descendants, kill, serving_workers


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
def test_workers_serve_tls_with_the_certificate_of_the_site(tmp_path: Path) -> None:
    certificate, key = tmp_path / "site.pem", tmp_path / "site.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        ["openssl", *words.split(), "-addext", names, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    trust = ssl.create_default_context(cafile=certificate)
    tls = f'bind = "127.0.0.1:0"\ntls = {{ certificate = "{certificate}", key = "{key}" }}'
    with serving_workers(tmp_path, count=2, server=tls) as site, ExitStack() as connections:
        url = f"wss://127.0.0.1:{site.server.port}/chat"
        players = [Player(connections.enter_context(connect(f"{url}/room{number}", ssl=trust))) for number in range(10)]

        owners = {site.owner_of(player.read_pid()) for player in players}  # some through the worker that has the TLS state
        for player in players:
            player.echo()

        assert owners == {0, 1}
        # A successor has the certificate in force, whatever the files contain by now.
        before = site.workers[0]
        key.write_text("half a k")
        os.kill(before, signal.SIGKILL)
        site.wait_replaced(0, before)
        for number in range(10, 20):
            player = Player(connections.enter_context(connect(f"{url}/room{number}", ssl=trust)))
            player.read_pid()
            player.echo()


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


@pytest.mark.parametrize("limit", [24, 40])
def test_too_few_descriptors_for_the_workers_are_a_clear_error(tmp_path: Path, limit: int) -> None:
    (tmp_path / "site.toml").write_text('[server]\nbind = "127.0.0.1:0"\nworkers = 6\n[apps.chat]\ncommand = ["cat"]\n')
    limited = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit})); "
        "from scalesocket.cli.main import main; main(['serve', 'site.toml', '--no-watch'])"
    )
    started = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False
    )

    assert started.returncode == 1
    assert "Traceback" not in started.stderr
    last = started.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"Error: (server\.workers: cannot open what 6 workers need|worker \d+: it was not started) "
        r"\(Too many open files: raise the limit of open files \(LimitNOFILE= of systemd\)\)",
        last,
    ), last
