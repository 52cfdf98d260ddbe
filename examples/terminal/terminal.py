"""A shell on a pseudo-terminal, for a terminal emulator in a page.

Both ways a message is a 12-byte header, three little-endian 32-bit numbers (client id, type, length), and its bytes; the
site file says `routing = "gwsocket"`. Lengths instead of lines: keys, colours and UTF-8 cut in two all survive, and text
messages can say what bytes cannot.

    in   binary   keys
         text     {"resize": [columns, rows]}   the latest client to say so decides for all
    out  binary   what the shell prints, to everyone
         text     {"size": [columns, rows]}     after each change, to everyone

    python3 terminal.py COMMAND [ARGUMENT ...]
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios

HEADER = struct.Struct("<3I")
TEXT, BINARY = 1, 2
EVERYONE = 0
SMALLEST, LARGEST = 2, 500  # columns or rows


def send(kind, payload):
    sys.stdout.buffer.write(HEADER.pack(EVERYONE, kind, len(payload)) + payload)
    sys.stdout.buffer.flush()


def resize(terminal, columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))  # the shell gets SIGWINCH
    send(TEXT, json.dumps({"size": [columns, rows]}).encode())


def size_of(payload):
    """The columns and rows that a text message asks for, or None: a client may send anything."""
    try:
        asked = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    match asked:
        case {"resize": [int(columns), int(rows)]} if all(SMALLEST <= size <= LARGEST for size in (columns, rows)):
            return columns, rows
    return None


def read(source):
    try:
        return os.read(source, 1 << 16)
    except OSError:
        return b""  # Linux says EIO when the last process on the terminal is gone


def main(*command):
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    os.set_blocking(terminal, False)
    resize(terminal, 80, 24)
    unread = keys = b""
    while True:
        # While keys wait for the shell, no more are read: scalesocket then slows the clients down.
        readable, writable, _ = select.select([terminal] if keys else [terminal, 0], [terminal] if keys else [], [])
        if terminal in readable:
            if not (chunk := read(terminal)):
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            send(BINARY, chunk)
        if 0 in readable:
            if not (chunk := read(0)):
                return 0  # the terminal closes with this process: the shell and what it runs get SIGHUP
            unread += chunk
        if terminal in writable:
            keys = keys[os.write(terminal, keys) :]
        while len(unread) >= HEADER.size:
            _, kind, length = HEADER.unpack_from(unread)
            if len(unread) < (end := HEADER.size + length):
                break
            payload, unread = unread[HEADER.size : end], unread[end:]
            if kind == BINARY:
                keys += payload
            elif size := size_of(payload):
                resize(terminal, *size)


if __name__ == "__main__":
    sys.exit(abs(main(*sys.argv[1:])))
