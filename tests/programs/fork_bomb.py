"""Starts as many processes as it can, up to 500 tries, and prints how many it started and how many tries failed.

With the argument `wait`, it reads a line first.
"""

import os
import sys
import time

if "wait" in sys.argv:
    sys.stdin.readline()
started = failed = 0
for _ in range(500):
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        started += 1
    except OSError:
        failed += 1
print(started, failed, flush=True)
time.sleep(60)
