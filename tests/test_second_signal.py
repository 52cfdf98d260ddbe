"""A second signal while a server that has drained cleans up: it waits for an engine, or for its last processes."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.cli.serving import DEADLINE

PROGRAM: Final = """
import contextlib, importlib, os, signal, sys
import anyio
from scalesocket.cli.main import main
from scalesocket.supervisor import Stop

module, name, site = sys.argv[1:]
supervisor = importlib.import_module(module)
real_open, real_watch, real_request = getattr(supervisor, name), Stop.watch_signals, Stop.request
requests = []

@contextlib.asynccontextmanager
async def open_and_signal(*arguments, **settings):
    async with real_open(*arguments, **settings) as opened:
        yield opened
    os.kill(os.getpid(), signal.SIGTERM)
    while len(requests) < 2:
        await anyio.sleep(0.01)

def watch_and_signal(stop):
    real_watch(stop)
    os.kill(os.getpid(), signal.SIGTERM)

def request(stop, reason):
    real_request(stop, reason)
    requests.append(reason)

setattr(supervisor, name, open_and_signal)
Stop.watch_signals, Stop.request = watch_and_signal, request
main(["serve", site])
"""
"""A server that gets SIGTERM as soon as it watches for signals, and again when what it opened first is closed."""


@pytest.mark.parametrize(
    ("workers", "module", "name"),
    [(1, "scalesocket.supervisor", "open_service"), (2, "scalesocket.workers.supervisor", "open_listeners")],
)
def test_a_second_signal_during_the_cleanup_lets_it_end_with_exit_code_1(
    tmp_path: Path, workers: int, module: str, name: str
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(f'[server]\nbind = "127.0.0.1:0"\nworkers = {workers}\n[apps.chat]\ncommand = ["cat"]\n')

    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, name, str(site)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )

    assert ended.returncode == 1, (signal.Signals(-ended.returncode).name if ended.returncode < 0 else "", ended.stderr)
    assert "stopping at once" in ended.stderr
    assert "Traceback" not in ended.stderr
