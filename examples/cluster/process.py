"""A process of the cluster: started, watched, started again, stopped."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
START = 20.0
"""Seconds for a process to start."""
RESTART = 10.0
"""Seconds after which a process that has ended is started again."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ClusterError(Exception):
    """A program that is missing, or does not start."""


class Process:
    """One process of the cluster."""

    def __init__(self, name: str, command: Sequence[str], log: Path, is_up: Callable[[], bool], **variables: str) -> None:
        """`is_up` tells whether it serves. `variables` are added to the environment."""
        self.name = name
        self._command = command
        self._log = log
        self._is_up = is_up
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_at = 0.0

    @property
    def program(self) -> str:
        """The name of the program."""
        return Path(self._command[0]).name

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it. It ends with this process, and Ctrl-C does not reach it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=HERE,
                env={**os.environ, **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=end_with_parent,
            )
        self._ended_at = 0.0

    def wait_up(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + START
        while not self._is_up():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"{self.name} does not start. Its log, {self._log}:\n{tail(self._log)}")
            time.sleep(0.05)

    def watch(self) -> None:
        """Report its end, and start it again later."""
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return
        if not self._ended_at:
            self._ended_at = time.monotonic()
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            say(f"{self.name} has ended ({how}); it starts again in {RESTART:.0f} s. Log: {self._log}")
        elif time.monotonic() > self._ended_at + RESTART:
            self.start()
            say(f"{self.name} starts again, pid {self.pid}")

    def stop(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    def wait_ended(self, deadline: float) -> None:
        """Wait until it has ended; kill it at the deadline."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def end_with_parent() -> None:
    """End this process when the one that started it does, even if that is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def say(words: str) -> None:
    print(words, flush=True)


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def find_program(*names: str, package: str) -> str:
    """Return the path of the first program that is installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if (found := shutil.which(name, path=path)) is not None:
            return found
    raise ClusterError(
        f"found {'neither ' if len(names) > 1 else 'no '}{' nor '.join(names)} (Debian and Ubuntu: apt-get install {package})"
    )
