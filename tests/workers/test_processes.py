"""The supervisor process and its workers, from the command line, with real processes that are stopped and killed."""

import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import termios
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect, unix_connect

from tests.cli.serving import DEADLINE, serving
from tests.workers.serving import Player, Site, children, descendants, is_running, kill, serving_workers, wait_none

ROOMS = 12
"""Rooms of a test: with three workers, the chance that one of them has none is 2 %, and it is asked for more then."""


def join_all(site: Site) -> dict[int, list[tuple[Player, int]]]:
    """Open rooms until each worker has at least two; return clients and pids of programs by worker."""
    found: dict[int, list[tuple[Player, int]]] = {index: [] for index in range(site.count)}
    for number in range(100):
        player = site.join(f"room{number}")
        pid = player.read_pid()
        found[site.owner_of(pid)].append((player, pid))
        if number + 1 >= ROOMS and all(len(rooms) >= 2 for rooms in found.values()):
            return found
    raise AssertionError(f"rooms are not spread: { {index: len(rooms) for index, rooms in found.items()} }")


def echo_all(rooms: list[tuple[Player, int]]) -> None:
    for player, _ in rooms:
        player.echo()


def test_all_workers_serve_rooms_and_the_server_is_announced_once(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site:
        rooms = join_all(site)

        for owned in rooms.values():
            echo_all(owned)
        assert site.server.output.count("listening on http") == 1
        assert site.server.output.count("INFO     listening ") == 1


def test_clients_of_one_room_share_its_program_whichever_worker_accepts_them(tmp_path: Path) -> None:
    with serving_workers(tmp_path, count=2) as site:
        players = [site.join("lobby") for _ in range(20)]
        pids = {player.read_pid() for player in players}
        players[0].connection.send("hello")

        assert len(pids) == 1
        assert {player.read() for player in players} == {"hello"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_all_workers_and_the_exit_code_is_0(tmp_path: Path, number: signal.Signals) -> None:
    with serving_workers(tmp_path, count=2, server='bind = "127.0.0.1:0"\ndrain_timeout = "0s"') as site:
        rooms = join_all(site)
        family = site.family

        site.server.send_signal(number)

        assert {player.wait_closed() for owned in rooms.values() for player, _ in owned} == {1001}
        assert site.server.wait_ended() == 0
        wait_none(family)
        assert site.server.output.count(" stopped\n") == 1


def test_a_second_signal_ends_everything_at_once_with_exit_code_1(tmp_path: Path) -> None:
    slow = 'stop_timeout = "1h"\nstop_signal = "SIGCONT"'
    with serving_workers(tmp_path, count=2, app=slow) as site:
        rooms = join_all(site)
        family = site.family
        kill(*(pid for owned in rooms.values() for _, pid in owned), number=signal.SIGSTOP)  # they do not end by themselves

        site.server.send_signal(signal.SIGTERM)
        site.server.wait_output("stopping")
        site.server.send_signal(signal.SIGTERM)

        assert site.server.wait_ended() == 1
        wait_none(family, within=2)


def test_a_killed_worker_is_replaced_and_the_others_never_notice(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site:
        rooms = join_all(site)
        dead = site.workers[1]

        os.kill(dead, signal.SIGKILL)

        while site.workers.get(1, dead) == dead:  # under load
            echo_all(rooms[0] + rooms[2])
        for player, _ in rooms[1]:
            assert player.wait_closed() == 1006
        for number in range(ROOMS):
            player = site.join(f"room{number}")  # also those of the dead, which live in its successor
            assert player.read() != "not alone"
            player.connection.close()
        echo_all(rooms[0] + rooms[2])
        assert not any(is_running(pid) for _, pid in rooms[1])
        site.server.wait_output("worker ended")
        assert "end=SIGKILL" in site.server.output


def test_a_room_never_has_two_programs_when_its_worker_its_spawner_and_its_guardian_are_killed(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site:
        rooms = join_all(site)
        worker = site.workers[1]
        (spawner,) = children(worker)
        (guardian,) = children(spawner) - {pid for _, pid in rooms[1]}
        old = {pid for _, pid in rooms[1]}

        kill(worker, spawner, guardian, number=signal.SIGKILL)

        site.wait_replaced(1, worker)
        assert not any(map(is_running, old))
        for number in range(ROOMS):
            player = site.join(f"room{number}")
            assert player.read() != "not alone"
            player.connection.close()
        assert children(site.pid) == set(site.workers.values())  # nothing that was left behind


def test_rooms_go_on_when_the_spawner_of_a_worker_is_killed(tmp_path: Path) -> None:
    with serving_workers(tmp_path, count=2) as site:
        rooms = join_all(site)
        (spawner,) = children(site.workers[0])

        os.kill(spawner, signal.SIGKILL)

        site.server.wait_output("spawner died")
        for owned in rooms.values():
            echo_all(owned)
        assert " worker=0" in next(line for line in site.server.output.splitlines() if "spawner died" in line)


def test_everything_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site:
        rooms = join_all(site)
        family = site.family
        stopped = site.workers[2]
        os.kill(stopped, signal.SIGSTOP)

        os.kill(site.pid, signal.SIGKILL)

        site.server.wait_ended()
        wait_none(family, within=5)
        assert {player.wait_closed() for index in (0, 1) for player, _ in rooms[index]} <= {1001, 1006}


def test_a_stopped_worker_goes_on_where_it_was_and_the_others_never_notice(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site:
        rooms = join_all(site)
        before = site.workers
        stopped_at = time.monotonic()

        os.kill(before[1], signal.SIGSTOP)
        for player, _ in rooms[1]:
            player.connection.send("sent meanwhile")
        while time.monotonic() - stopped_at < 3:
            echo_all(rooms[0] + rooms[2])
        os.kill(before[1], signal.SIGCONT)

        for player, _ in rooms[1]:
            assert player.read() == "sent meanwhile"
            player.echo()
        assert site.workers == before


def test_a_worker_that_does_not_answer_is_killed_and_replaced(tmp_path: Path) -> None:
    with serving_workers(tmp_path, limit=2.0) as site:
        rooms = join_all(site)
        stuck = site.workers[1]

        os.kill(stuck, signal.SIGSTOP)
        while site.workers.get(1, stuck) == stuck:
            echo_all(rooms[0] + rooms[2])

        site.server.wait_output("worker not answering")
        assert not is_running(stuck)
        assert site.join("another").read() != "not alone"


def test_a_worker_that_gets_sigterm_drains_itself_and_is_replaced(tmp_path: Path) -> None:
    with serving_workers(tmp_path, server='bind = "127.0.0.1:0"\ndrain_timeout = "0s"') as site:
        rooms = join_all(site)
        leaving = site.workers[1]

        os.kill(leaving, signal.SIGTERM)

        assert {player.wait_closed() for player, _ in rooms[1]} == {1012}
        site.wait_replaced(1, leaving)
        site.server.wait_output("worker ready")
        echo_all(rooms[0] + rooms[2])
        assert site.join("another").read() != "not alone"


def test_a_hangup_reads_the_site_file_again(tmp_path: Path) -> None:
    with serving_workers(tmp_path, count=2) as site:
        player = site.join("lobby")
        player.read_pid()

        site.server.send_signal(signal.SIGHUP)

        site.server.wait_output("nothing to reload")
        player.echo()


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


def test_ctrl_c_on_a_terminal_drains_and_workers_log_to_it_from_the_background(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        '[server]\nworkers = 2\nbind = "127.0.0.1:0"\ncontrol = "off"\n'
        '[apps.chat]\ncommand = ["sh", "-c", "echo to the log >&2; exec cat"]\n'
    )
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            settings = termios.tcgetattr(0)
            settings[3] |= termios.TOSTOP  # a process in the background is stopped when it writes, unless it ignores that
            termios.tcsetattr(0, termios.TCSANOW, settings)
            os.execv(sys.executable, [sys.executable, "-m", "scalesocket", "serve", str(file)])
        finally:
            os._exit(255)
    try:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)/health", read_terminal(terminal, "/health"))[0])
        with connect(f"ws://127.0.0.1:{port}/chat/lobby") as client:
            client.send("hello")
            assert client.recv(timeout=20) == "hello"
            assert "worker=" in read_terminal(terminal, "to the log", "\n")

            os.write(terminal, b"\x03")

            assert "stopped" in read_terminal(terminal, "stopped")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


def read_terminal(terminal: int, *words: str) -> str:
    """Read until these words have come, one after the other."""
    text, deadline = "", time.monotonic() + 20
    while not re.search(".*".join(map(re.escape, words)), text, re.DOTALL):
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 65536).decode()
    return text


def test_systemd_hears_of_the_start_and_the_stop_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with serving_workers(tmp_path, count=2, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as site:
            assert manager.recv(1000) == b"READY=1"
            site.server.send_signal(signal.SIGTERM)
            assert manager.recv(1000) == b"STOPPING=1"
            site.server.wait_ended()
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(1000)


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
        "start = process.start_program; "
        "process.start_program = lambda index, stdin, descriptors: start(index, stdin, descriptors if index == 0 else ()); "
        "from scalesocket.cli.main import main; main(sys.argv[1:])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, "serve", str(file)], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 1
    assert "Error: worker 1: it ended before it was ready (exit code 1; see the log)" in done.stderr
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


@pytest.mark.parametrize("limit", [40, 80])
def test_too_few_descriptors_for_the_workers_are_a_clear_error(tmp_path: Path, limit: int) -> None:
    (tmp_path / "site.toml").write_text('[server]\nbind = "127.0.0.1:0"\nworkers = 24\n[apps.chat]\ncommand = ["cat"]\n')
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
        r"Error: (server\.workers: cannot open what 24 workers need|worker \d+: it was not started) "
        r"\(Too many open files: raise the limit of open files \(LimitNOFILE= of systemd\)\)",
        last,
    ), last
