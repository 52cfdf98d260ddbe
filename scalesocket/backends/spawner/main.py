"""The program of the spawner process: `python -I -S main.py FD SOFT READ WRITE`.

FD is its end of the socket pair (protocol.py); SOFT is the soft limit of open files that children get; READ and WRITE are the
ends of the guardian's pipe, whose write end the gateway holds too.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import sys
import termios
from typing import Final

sys.path.append(__file__.rsplit("/", 4)[0])  # the package's folder, which `-I` leaves out; pathlib takes 5 ms to import

from scalesocket.backends.spawner.descriptors import DescriptorLimits
from scalesocket.backends.spawner.processes import NICENESS
from scalesocket.backends.spawner.spawner import Spawner

PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h


def main() -> None:
    """Serve the gateway at the other end of FD."""
    gateway = socket.socket(fileno=int(sys.argv[1]))
    gateway.set_inheritable(False)
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115 a traceback is one write, one event
    for fd in map(int, sys.argv[3:5]):
        os.set_inheritable(fd, False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    leave_terminal()
    os.nice(NICENESS)
    limits = DescriptorLimits(int(sys.argv[2]))
    limits.use_hard()
    Spawner(gateway, set_signals(), limits, guardian_pipe=int(sys.argv[3])).run()


def set_signals() -> int:
    """Ignore every signal that would end the process, and return a descriptor that becomes readable after SIGCHLD.

    With handlers, not SIG_IGN: children would inherit that, but exec resets handlers to the default. Signals that the gateway
    ignores or blocks are reset as well.
    """
    wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(write_end, b"\0")  # read before the first wait, so that reading never finds the pipe empty
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return wakeup


def leave_terminal() -> None:
    """Give up the controlling terminal, for all children too: a read from it would stop a background process."""
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)


if __name__ == "__main__":
    main()
