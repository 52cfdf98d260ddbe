"""The end of a server of several workers, by signals and by faults, from the command line with real processes."""

import os
import pty
import re
import select
import signal
import socket
import sys
import termios
import time
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.cli.serving import DEADLINE, START
from tests.workers.serving import echo_all, is_running, join_all, kill, serving_workers, wait_none


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
        wait_none(family)


def test_everything_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with serving_workers(tmp_path) as site:
        rooms = join_all(site)
        family = site.family
        stopped = site.workers[2]
        os.kill(stopped, signal.SIGSTOP)

        os.kill(site.pid, signal.SIGKILL)

        site.server.wait_ended()
        wait_none(family)
        assert {player.wait_closed() for index in (0, 1) for player, _ in rooms[index]} <= {1001, 1006}


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
        port = int(re.findall(r"127\.0\.0\.1:(\d+)/health", read_terminal(terminal, "/health", within=START))[0])
        with connect(f"ws://127.0.0.1:{port}/chat/lobby") as client:
            client.send("hello")
            assert client.recv(timeout=20) == "hello"
            assert "worker=" in read_terminal(terminal, "to the log", "\n")

            os.write(terminal, b"\x03")

            assert "stopped" in read_terminal(terminal, "stopped")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


def read_terminal(terminal: int, *words: str, within: float = DEADLINE) -> str:
    """Read until these words have come, one after the other."""
    text, deadline = "", time.monotonic() + within
    while not re.search(".*".join(map(re.escape, words)), text, re.DOTALL):
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 65536).decode()
    return text


def test_systemd_is_notified_once_of_the_start_and_of_the_stop(tmp_path: Path) -> None:
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
