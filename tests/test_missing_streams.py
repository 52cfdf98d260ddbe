"""Commands that are started with closed standard streams."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.cli.serving import DEADLINE, ROOT

MODULE: Final = (sys.executable, "-m", "scalesocket")
SCRIPT: Final = (str(Path(sys.executable).with_name("scalesocket")),)
CLOSED: Final = {"<&-": 0, ">&-": 1, "2>&-": 2}
ALL: Final = " ".join(CLOSED)


def start(command: tuple[str, ...], closed: str, *words: str, cwd: Path, **environment: str) -> "subprocess.Popen[bytes]":
    """Start a command line with descriptors closed as a shell closes them."""
    line = f"exec {shlex.join([*command, *words])} {closed}"
    kept = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    return subprocess.Popen(
        ["/bin/sh", "-c", line],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text('[server]\nbind = "unix:socket"\ncontrol = "off"\n[apps.chat]\ncommand = "cat"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("command", "words", "closed"),
    [
        *((MODULE, ("serve", "site.toml"), closed) for closed in ("<&-", ">&-", "2>&-", ALL)),
        (SCRIPT, ("serve", "site.toml"), ALL),
        (MODULE, ("--addr", "127.0.0.1:0", "cat"), ALL),
    ],
    ids=["stdin", "stdout", "stderr", "all", "script", "run"],
)
def test_no_socket_gets_the_number_of_a_standard_stream(
    command: tuple[str, ...], words: tuple[str, ...], closed: str, folder: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(folder / "ready"))
        ready.settimeout(DEADLINE)
        with start(command, closed, *words, cwd=folder, NOTIFY_SOCKET=str(folder / "ready")) as server:
            try:
                assert ready.recv(4096) == b"READY=1"

                missing = [number for sign, number in CLOSED.items() if sign in closed.split()]
                assert {str(Path(f"/proc/{server.pid}/fd/{fd}").readlink()) for fd in missing} == {os.devnull}
            finally:
                server.terminate()
            assert server.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [(ALL, ("check", "site.toml"), 0), ("2>&-", ("check", "no.toml"), 78), ("2>&-", ("serve", "--nope"), 2)],
)
def test_an_exit_code_does_not_depend_on_the_streams(closed: str, words: tuple[str, ...], code: int, folder: Path) -> None:
    with start(MODULE, closed, *words, cwd=folder) as done:
        output = done.communicate(timeout=DEADLINE)

    assert done.returncode == code, output
