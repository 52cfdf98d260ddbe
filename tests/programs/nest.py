"""Prints the pids of itself, a child and a grandchild, like a shell with jobs; all three then sleep forever.

With PORT in its environment it sends the line to the first connection to that port.
"""

import os
import signal
import socket
import sys

output = sys.stdout
if "PORT" in os.environ:
    output = socket.create_server(("127.0.0.1", int(os.environ["PORT"]))).accept()[0].makefile("w")
pids = [os.getpid()]
for _ in range(2):
    readable, writable = os.pipe()
    if os.fork() == 0:
        pids.append(os.getpid())
        os.write(writable, b"x")
    else:
        os.read(readable, 1)
        break
else:
    print(*pids, flush=True, file=output)
while True:
    signal.pause()
