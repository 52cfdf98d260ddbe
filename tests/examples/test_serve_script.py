"""`examples/serve.sh`, which `make serve` runs: the site and its TCP server come and go together."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import pytest

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 20.0
"""Seconds the servers may take to start or to end."""


@pytest.mark.parametrize(
    ("send", "signal_"),
    [(os.kill, signal.SIGINT), (os.kill, signal.SIGTERM), (os.kill, signal.SIGHUP), (os.killpg, signal.SIGINT)],
    ids=["SIGINT", "SIGTERM", "SIGHUP", "Ctrl-C"],
)
def test_a_signal_ends_the_example_site_and_its_tcp_server_gracefully(
    send: Callable[[int, int], None], signal_: signal.Signals, examples: Path, tmp_path: Path
) -> None:
    command = tmp_path / "scalesocket"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scalesocket "$@"\n')
    command.chmod(0o755)
    with closing(socket.create_server(("127.0.0.1", 0))) as place:
        mud_port = place.getsockname()[1]
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MUD_PORT": str(mud_port),
    }
    said: list[str] = []
    script = subprocess.Popen(
        # A shell can't trap what was ignored when it started, as SIGINT is in what a script runs in the background.
        ["env", "--default-signal=INT", examples / "serve.sh", "--bind", "127.0.0.1:0"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    with script:
        assert script.stdout is not None
        urls: list[str] = []
        is_mud_up = False
        while not (urls and is_mud_up):
            line = script.stdout.readline()
            assert line, "".join(said)
            said.append(line)
            is_mud_up |= "mud: listening" in line
            urls += [line.split()[-1]] if "listening on http://" in line else []
        assert httpx.get(f"{urls[0]}/health").json() == {"status": "ok"}

        send(script.pid, signal_)
        said += script.stdout.readlines()

        assert script.wait(PATIENCE) == 0, "".join(said)
    assert "stopping at once" not in "".join(said)
    for port in (mud_port, int(urls[0].rpartition(":")[2])):
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
