"""Runs the command line: to its end, or as a server beside a test."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scalesocket.cli.main import main

ROOT: Final = Path(__file__).parents[2]
DEADLINE: Final = 20.0
"""Seconds that a test waits for anything at most, except for the start of a server."""
START: Final = 60.0
"""Seconds for a server to start: on a busy machine several processes take long to import the package."""
SITE: Final = '[server]\nbind = "127.0.0.1:0"\n\n[apps.chat]\ncommand = ["cat"]\n'
"""A site file with one app, on a free port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of a command line."""

    code: int
    out: str
    err: str


def scalesocket(*words: str, cwd: Path | None = None) -> Done:
    """Run a command line in this process, if it serves nothing."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd or Path()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = 0
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    return Done(code=code, out=out.getvalue(), err=err.getvalue())


def scalesocket_process(*words: str, cwd: Path | None = None) -> Done:
    """Run a command line in a process of its own, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "scalesocket", *words],
        cwd=cwd,
        env=_environment(None),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


class Serving:
    """A server that was started from the command line, with its output so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._readers = [threading.Thread(target=self._read, args=(pipe,)) for pipe in (process.stdout, process.stderr)]
        for reader in self._readers:
            reader.start()

    @property
    def output(self) -> str:
        """Both streams, line by line."""
        return "".join(self._lines)

    @property
    def port(self) -> int:
        """The port of the first address in its banner."""
        match = re.search(r"listening on https?://\S+:(\d+)", self.output)
        assert match is not None, self.output
        return int(match[1])

    def wait_output(self, words: str, times: int = 1) -> None:
        """Wait until its output contains these words, so many times."""
        self.wait(lambda: self.output.count(words) >= times, f"{words!r} {times} times")

    def wait_ended(self) -> int:
        """Wait until it has exited; return its exit code."""
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _read(self, pipe: object) -> None:
        for line in pipe:  # type: ignore[attr-defined]
            self._lines.append(line)

    def wait(self, holds: Callable[[], bool], what: str, *, within: float = DEADLINE) -> None:
        """Wait until a condition holds; `what` names it."""
        deadline = time.monotonic() + within
        while True:
            has_ended = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
            if holds():
                return
            assert not has_ended, f"exited with {self.process.returncode}; output:\n{self.output}"
            assert time.monotonic() < deadline, f"waited for {what}; output:\n{self.output}"
            time.sleep(0.01)


@contextmanager
def serving(
    *words: str, cwd: Path | None = None, environment: dict[str, str] | None = None, wrapper: Sequence[str] = ()
) -> Iterator[Serving]:
    """Start a server beside the test and wait for its banner. It is stopped after the test.

    `wrapper` is a command that executes its arguments, to which the command line is appended.
    """
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-m", "scalesocket", *words],
        cwd=cwd,
        env=_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Serving(process)
    try:
        server.wait(lambda: "/health" in server.output, "its banner", within=START)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            server.wait_ended()
        except subprocess.TimeoutExpired:
            process.kill()
            server.wait_ended()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _environment(more: dict[str, str] | None) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")}
    return {**kept, "PYTHONPATH": path, **(more or {})}
