"""One worker process as the supervisor sees it: its start, its end, and the descriptors it gets."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from scalesocket.backends.spawner.cgroups import SERVER_VARIABLE
from scalesocket.workers.setup import Setup, write_setup

PROGRAM: Final = Path(__file__).parent / "__main__.py"
HIDDEN: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Variables of systemd, which the supervisor alone reports to."""


class WorkerProcess:
    """A worker process, from its start until it has ended and `close` was called."""

    def __init__(self, setup: Setup) -> None:
        """Start it, with a vfork, so that the size of the supervisor does not matter. Raises OSError.

        `setup.link` is set here.
        """
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when it has ended."""
        with ExitStack() as inherited, ExitStack() as undo:
            self.link, its_end = socket.socketpair()
            undo.callback(self.link.close)
            inherited.callback(its_end.close)
            setup = replace(setup, link=its_end.fileno())
            stdin = write_setup(setup)
            inherited.callback(os.close, stdin)
            self._process = start_program(setup.index, stdin, setup.descriptors)
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        self.pid = self._process.pid
        self._loop.add_reader(self._pidfd, self._note_end)

    @property
    def code(self) -> int | None:
        """Its exit code, or the negative number of the signal that has ended it; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Send SIGKILL. Calls may repeat."""
        self._process.kill()

    def close(self) -> None:
        """Kill it if it runs, and reap it. Its spawner and its programs may still be about to end."""
        self._loop.remove_reader(self._pidfd)
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            os.close(self._pidfd)
        self.link.close()

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._process.wait()
        if not self.ended.done():
            self.ended.set_result(None)


def start_program(index: int, stdin: int, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start the program of worker `index` with these descriptors. Raises OSError."""
    flags = ["-P", f"-Xutf8={sys.flags.utf8_mode}", *(["-I"] if sys.flags.isolated else [])]
    return subprocess.Popen(
        [sys.executable, *flags, str(PROGRAM), str(index)],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name not in HIDDEN} | {SERVER_VARIABLE: str(os.getpid())},
        pass_fds=sorted({*descriptors}),
        process_group=0,  # the terminal's signals are for the supervisor alone
    )


def describe_end(code: int | None) -> str:
    """Describe an exit code for the log: `exit code 1`, `SIGKILL`."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
