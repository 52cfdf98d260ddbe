"""`examples/serve.sh`, which `make serve` runs: the site and its TCP server start and end together."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest
from websockets.sync.client import connect

from tests import ports

ROOT: Final = Path(__file__).parents[2]
DEADLINE: Final = 20.0
"""Seconds for the servers to start or to end."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with `scalesocket` on it."""
    command = tmp_path / "scalesocket"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scalesocket "$@"\n')
    command.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@dataclass
class Script:
    """serve.sh, with the output of it and its servers."""

    process: subprocess.Popen[str]
    output: list[str] = field(default_factory=list)
    site: str = ""
    """Wait until the site listens, and return its `host:port`."""
    mud_port: int = 0

    def wait_until_listening(self) -> None:
        assert self.process.stdout is not None
        while not (self.site and self.mud_port):
            line = self.process.stdout.readline()
            assert line, "".join(self.output)
            self.output.append(line)
            if match := re.search(r"listening on (?:http://)?([\d.]+:(\d+))", line):
                if line.startswith("mud:"):
                    self.mud_port = int(match[2])
                else:
                    self.site = match[1]

    def wait_until_ended(self) -> tuple[int, str]:
        """Wait for the end, and return the exit status and the output."""
        assert self.process.stdout is not None
        self.output += self.process.stdout.readlines()
        return self.process.wait(DEADLINE), "".join(self.output)


@contextmanager
def run_script(path: str, *command: str | Path, **environ: str) -> Iterator[Script]:
    script = subprocess.Popen(
        # A shell cannot trap signals that were ignored when it started, such as SIGINT in a background job of a script.
        ["env", "--default-signal=INT", *command],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    with script:
        try:
            yield Script(script)
        finally:
            if script.poll() is None:
                script.terminate()
                script.communicate(timeout=DEADLINE)


def is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


@pytest.fixture
def busy_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as place:
        yield place.getsockname()[1]


@pytest.mark.parametrize("port", ["some", "70000"])
def test_an_invalid_port_stops_the_script(examples: Path, path: str, port: str) -> None:
    with run_script(path, examples / "serve.sh", MUD_PORT=port) as script:
        code, output = script.wait_until_ended()

    assert code == 1
    assert f"127.0.0.1:{port}: not a port" in output


@pytest.mark.parametrize(
    ("send", "signal_"),
    [(os.kill, signal.SIGINT), (os.kill, signal.SIGTERM), (os.kill, signal.SIGHUP), (os.killpg, signal.SIGINT)],
    ids=["SIGINT", "SIGTERM", "SIGHUP", "Ctrl-C"],
)
def test_a_signal_ends_the_example_site_and_its_tcp_server_gracefully(
    send: Callable[[int, int], None], signal_: signal.Signals, examples: Path, path: str, free_port: int
) -> None:
    with run_script(path, examples / "serve.sh", "--bind", "127.0.0.1:0", MUD_PORT=str(free_port)) as script:
        script.wait_until_listening()
        assert script.mud_port == free_port
        assert httpx.get(f"http://{script.site}/health").json() == {"status": "ok"}

        send(script.process.pid, signal_)
        code, output = script.wait_until_ended()

    assert code == 0, output
    assert "stopping at once" not in output
    assert "BIND" not in output
    for port in (script.mud_port, int(script.site.rpartition(":")[2])):
        assert is_free(port)


def test_a_busy_port_of_the_mud_stops_the_script_and_says_what_to_do(examples: Path, path: str, busy_port: int) -> None:
    with run_script(path, examples / "serve.sh", "--bind", "127.0.0.1:0", MUD_PORT=str(busy_port)) as script:
        code, output = script.wait_until_ended()

    assert code == 1
    assert f"the mud cannot listen on 127.0.0.1:{busy_port}: Address already in use" in output
    assert "make serve MUD_PORT=4001" in output
    assert "listening" not in output


def test_a_busy_port_of_the_site_stops_the_script_and_says_what_to_do(
    examples: Path, path: str, busy_port: int, free_port: int
) -> None:
    with run_script(path, examples / "serve.sh", BIND=f"127.0.0.1:{busy_port}", MUD_PORT=str(free_port)) as script:
        code, output = script.wait_until_ended()

    assert code == 1
    assert f"can't listen at 127.0.0.1:{busy_port}" in output
    assert "make serve BIND=127.0.0.1:8000" in output
    assert is_free(free_port)


def test_make_serve_with_an_address_works_beside_another_one(path: str, tmp_path: Path) -> None:
    # INSTALLED= and VENV= make it use this environment instead of a new one.
    make = ("make", "--no-print-directory", "-C", ROOT, "serve", "INSTALLED=", f"VENV={tmp_path}", "BIND=127.0.0.1:0")
    with run_script(path, *make) as first:
        first.wait_until_listening()

        with run_script(path, *make) as second:
            second.wait_until_listening()
            for script in (first, second):
                with connect(f"ws://{script.site}/mud/red") as client:
                    assert "Welcome, hero of red" in str(client.recv(timeout=DEADLINE))

    assert first.mud_port != second.mud_port
