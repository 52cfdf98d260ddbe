"""SIGHUP and its two meanings: the terminal hung up, or a reload is requested.

The kernel sends it when a terminal is closed or its session ends. A shell passes it on to its jobs. `kill -HUP` and service
managers send it to request a reload. Python's signal handlers do not know the sender, so a daemon thread takes the signal.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

SI_KERNEL: Final = 0x80  # asm-generic/siginfo.h
SHELL_EXIT_TIMEOUT: Final = 1.0
"""Seconds within which a shell that sent SIGHUP may exit: some send it to their jobs before they give up the terminal."""


class HangupWatcher:
    """Receives SIGHUP for the process. Create it before any thread, because threads must not receive the signal."""

    def __init__(self) -> None:
        """Block SIGHUP, unless it is ignored, as under nohup: then it stays ignored."""
        self._had_terminal = has_terminal()
        self._shells = {os.getsid(0), *find_ancestors()}
        self._is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        if not self._is_ignored:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def watch(self, report: Callable[[bool], None]) -> None:
        """Call `report` in a thread for each SIGHUP, also for those already received: True if the terminal hung up."""
        if not self._is_ignored:
            threading.Thread(target=self._run, args=(report,), name="sighup", daemon=True).start()

    def _run(self, report: Callable[[bool], None]) -> None:
        while True:
            received = signal.sigwaitinfo({signal.SIGHUP})
            is_relayed = self._had_terminal and received.si_pid in self._shells
            is_hangup = received.si_code == SI_KERNEL or (is_relayed and not has_terminal())
            report(is_hangup)
            if is_relayed and not is_hangup:
                time.sleep(SHELL_EXIT_TIMEOUT)
                if not has_terminal():
                    report(True)


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal that is still connected."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def find_ancestors() -> Iterator[int]:
    """Yield the pids of the parent, its parent and so on within this session: the shells that may pass SIGHUP on."""
    session, pid = os.getsid(0), os.getppid()
    try:
        while pid > 0 and os.getsid(pid) == session:
            yield pid
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            pid = int(stat.rpartition(")")[2].split()[1])
    except OSError:  # one of them has ended
        return
