"""Stands for a shell with jobs: prints the pids of itself, a child and a grandchild, then all three sleep for ever."""

import os
import signal

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
    print(*pids, flush=True)
while True:
    signal.pause()
