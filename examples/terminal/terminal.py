"""A shell on a pseudo-terminal, its bytes on stdin and stdout: what a terminal emulator in a page needs.

`binary = true` passes both ways what is read as it is, so keys, colours and UTF-8 cut in two all survive. The size is
fixed, because a pipe has no channel beside its bytes to say another one.

    python3 terminal.py COLUMNSxROWS COMMAND [ARGUMENT ...]
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios


def main(size, *command):
    columns, rows = map(int, size.split("x"))
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    sources = {0: terminal, terminal: 1}
    while True:
        for source in select.select(list(sources), [], [])[0]:
            try:
                chunk = os.read(source, 1 << 16)
            except OSError:
                chunk = b""  # Linux says EIO when the last process on the terminal is gone
            if not chunk:
                os.close(terminal)  # hangs up: the shell and what it runs get SIGHUP
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if source == terminal else 0
            while chunk:
                chunk = chunk[os.write(sources[source], chunk) :]


if __name__ == "__main__":
    sys.exit(abs(main(*sys.argv[1:])))
