"""Checks that it is the only process of its room: `alone.py LOCK [SECONDS]`.

Prints its pid, or "not alone" when another process holds the lock LOCK.ROOM; then echoes. Runs for SECONDS after the end of its
input.
"""

import fcntl
import os
import sys
import time

with open(f"{sys.argv[1]}.{os.environ['ROOM']}", "a") as lock:  # noqa: PTH123
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("not alone", flush=True)
        sys.exit(1)
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        print(line, end="", flush=True)
    time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
