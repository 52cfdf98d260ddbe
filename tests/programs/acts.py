"""Logs everything that it does: `acts.py LOG [SECONDS]`, and sends each message to all clients of its room.

Each act is a line that is appended to LOG in one write: the time in nanoseconds of CLOCK_BOOTTIME, the room, the fence, the node,
the pid, and what it did: start, tick (every SECONDS, by default 0.01), join ID, leave ID, message, end.
"""

import os
import select
import sys
import time

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
period = float(sys.argv[2]) if len(sys.argv) > 2 else 0.01
about = f"{os.environ['ROOM']} {os.environ.get('SCALESOCKET_FENCE', 0)} {os.environ.get('NODE', '-')} {os.getpid()}"


def act(what: str) -> None:
    os.write(log, f"{time.clock_gettime_ns(time.CLOCK_BOOTTIME)} {about} {what}\n".encode())


act("start")
unread = b""
while True:
    if not select.select([0], [], [], period)[0]:
        act("tick")
        continue
    chunk = os.read(0, 65536)
    if not chunk:
        break
    *lines, unread = (unread + chunk).split(b"\n")
    for line in lines:
        word = line.partition(b" ")[0]
        act(line.decode() if word in (b"join", b"leave") else "message")
        if word not in (b"join", b"leave"):
            os.write(1, line + b"\n")
act("end")
