"""Reads nothing for SECONDS, then echoes: `sleepy.py SECONDS`."""

import sys
import time

print("good night", flush=True)
time.sleep(float(sys.argv[1]))
for line in sys.stdin:
    print(line, end="", flush=True)
