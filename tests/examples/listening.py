"""Servers in processes of their own, for tests that see them only from outside."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

START: Final = 60.0
"""Seconds for a server to print its address, or to end."""


@contextmanager
def run_until_listening(*command: str, cwd: Path | None = None, **environ: str) -> Iterator[str]:
    """Run a server, and yield the `host:port` that it prints."""
    server = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output: list[str] = []
    addresses: list[str] = []
    is_settled = threading.Event()

    def listen() -> None:
        assert server.stdout is not None
        for line in server.stdout:
            output.append(line)
            if match := re.search(r"listening on (?:https?://)?([\d.]+:\d+)", line):
                addresses.append(match[1])
                is_settled.set()
        is_settled.set()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        is_settled.wait(START)
        assert addresses, f"{command} did not listen within {START} s:\n{''.join(output)}"
        yield addresses[0]
    finally:
        server.terminate()
        try:
            server.wait(START)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        listener.join()
        assert server.stdout is not None
        server.stdout.close()
