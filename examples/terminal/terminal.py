"""A shell on a pseudo-terminal, for a terminal emulator in a page.

The site file has `routing = "gwsocket"`: in both directions a message is a 12-byte header, three little-endian 32-bit numbers
(client id, type, length), and a payload. So keys, colours and partial UTF-8 arrive unchanged, and text messages are commands.

    in   binary   keys
         text     {"resize": [columns, rows]}   the latest client to resize decides for all
    out  binary   output of the shell, to everyone
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
    """Return the columns and rows that a text message requests, or None: clients may send anything."""
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
        return b""  # Linux gives EIO when the last process on the terminal has exited


def main(*command):
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    os.set_blocking(terminal, False)
    resize(terminal, 80, 24)
    unread = keys = b""
    while True:
        # While keys wait for the shell, stdin is not read, and scalesocket slows the clients down.
        readable, writable, _ = select.select([terminal] if keys else [terminal, 0], [terminal] if keys else [], [])
        if terminal in readable:
            if not (chunk := read(terminal)):
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            send(BINARY, chunk)
        if 0 in readable:
            if not (chunk := read(0)):
                return 0  # the terminal closes with this process: the shell and its children get SIGHUP
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
