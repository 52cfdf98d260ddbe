"""A server whose terminal is closed, and SIGHUP."""

import contextlib
import fcntl
import os
import pty
import select
import shlex
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from tests.cli.serving import DEADLINE, ROOT, START, serving

SITE: Final = '[server]\nbind = "unix:socket"\ncontrol = "off"\n[apps.chat]\ncommand = ["cat"]\n'
COMMAND: Final = (sys.executable, "-m", "scalesocket")
SERVE: Final = (*COMMAND, "serve", "--no-watch", "site.toml")


def until(holds: Callable[[], bool], what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


class Terminal:
    """A terminal that is read until it is closed, and the notification socket of a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "site.toml").write_text(SITE)
        self.log = folder / "log"
        self.log.touch()
        self.master, self.slave = pty.openpty()
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ready.bind(str(folder / "ready"))
        self.ready.settimeout(START)
        self._is_closing = threading.Event()
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()

    def run(self, *command: str, stderr: int | None = None) -> "subprocess.Popen[bytes]":
        """Start the leader of a session with this controlling terminal."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(self.folder / "ready"), "PS1": "$ "}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave if stderr is None else stderr,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def wait_ready(self) -> None:
        assert self.ready.recv(4096) == b"READY=1"

    def wait_logged(self, words: str) -> None:
        until(lambda: words in self.log.read_text(), self.log.read_text)

    def type(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")

    def hang_up(self) -> None:
        """Close the terminal, as closing its window does."""
        if not self._is_closing.is_set():
            self._is_closing.set()
            self._reader.join()
            os.close(self.slave)
            os.close(self.master)

    def _drain(self) -> None:
        while not self._is_closing.is_set():
            if select.select([self.master], [], [], 0.02)[0]:
                os.read(self.master, 1 << 16)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.hang_up()
    for process in Path("/proc").glob("[0-9]*"):  # servers of shells, if a test has failed
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == tmp_path:
                os.kill(int(process.name), signal.SIGKILL)
    terminal.ready.close()


def pid_of_server(terminal: Terminal) -> int:
    """Return the pid of the server that a shell has started."""
    until(lambda: (terminal.folder / "pid").exists() and bool((terminal.folder / "pid").read_text().strip()))
    return int((terminal.folder / "pid").read_text())


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("command", [SERVE, (*COMMAND, "--addr", "127.0.0.1:0", "cat")], ids=["serve", "run"])
def test_a_server_whose_terminal_is_closed_exits_with_0(terminal: Terminal, command: tuple[str, ...]) -> None:
    with terminal.run(*command) as server:
        terminal.wait_ready()

        terminal.hang_up()

        assert server.wait(DEADLINE) == 0


def test_clients_of_a_server_whose_terminal_is_closed_get_a_close_frame(terminal: Terminal) -> None:
    with terminal.run(*SERVE) as server:
        terminal.wait_ready()
        with unix_connect(str(terminal.folder / "socket"), "ws://localhost/chat/lobby") as client:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"

            terminal.hang_up()

            with pytest.raises(ConnectionClosed) as closed:
                client.recv(DEADLINE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert server.wait(DEADLINE) == 0


@pytest.mark.parametrize("sign", ["&", ""], ids=["background", "foreground"])
def test_a_job_of_a_shell_stops_with_its_terminal(terminal: Terminal, sign: str) -> None:
    with terminal.run("bash", "--norc", "--noprofile", "-i"):
        terminal.type(f"{shlex.join(SERVE)} 2>log >/dev/null </dev/null {sign}")
        terminal.wait_ready()

        terminal.hang_up()

        terminal.wait_logged("terminal hung up")
        terminal.wait_logged("stopped")


def test_a_disowned_job_goes_on_and_reloads_on_sighup(terminal: Terminal) -> None:
    with terminal.run("bash", "--norc", "--noprofile", "-i") as shell:
        terminal.type(f"{shlex.join(SERVE)} 2>log >/dev/null </dev/null & disown; echo $! >pid")
        terminal.wait_ready()
        server = pid_of_server(terminal)

        terminal.hang_up()
        shell.wait(DEADLINE)
        os.kill(server, signal.SIGHUP)

        try:
            terminal.wait_logged("trigger=SIGHUP")
            assert is_alive(server)
        finally:
            os.kill(server, signal.SIGTERM)
            until(lambda: not is_alive(server), terminal.log.read_text)


def test_a_shell_that_sends_sighup_before_it_exits_stops_its_jobs(terminal: Terminal) -> None:
    with terminal.run("bash", "--norc", "--noprofile", "-i"):
        terminal.type(f"{shlex.join(SERVE)} 2>log >/dev/null </dev/null &")
        terminal.wait_ready()

        terminal.type("kill -HUP $!; exit")  # as zsh does at its exit, and bash with huponexit

        terminal.wait_logged("terminal hung up")
        terminal.wait_logged("stopped")


def test_a_server_started_by_nohup_ignores_the_end_of_its_terminal(terminal: Terminal) -> None:
    with terminal.log.open("wb") as log, terminal.run("nohup", *SERVE, stderr=log.fileno()) as server:
        terminal.wait_ready()

        terminal.hang_up()
        server.send_signal(signal.SIGHUP)

        with unix_connect(str(terminal.folder / "socket"), "ws://localhost/chat/lobby") as client:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"
        server.terminate()
        assert server.wait(DEADLINE) == 0
    assert "SIGHUP" not in terminal.log.read_text()


def test_sighup_reloads_while_the_terminal_is_open(terminal: Terminal) -> None:
    with terminal.log.open("wb") as log, terminal.run(*SERVE, stderr=log.fileno()) as server:
        terminal.wait_ready()

        server.send_signal(signal.SIGHUP)

        terminal.wait_logged("trigger=SIGHUP")
        server.terminate()
        assert server.wait(DEADLINE) == 0


def test_sighup_stops_a_server_without_a_file_and_a_second_one_does_not_force_it() -> None:
    with serving("--addr=127.0.0.1:0", "cat") as server:
        server.send_signal(signal.SIGHUP)
        server.wait_output("stopping")
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGHUP)

        assert server.wait_ended() == 0
    assert "at once" not in server.output
