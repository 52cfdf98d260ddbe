"""Answer every line. The room is this process: all who are in it hear what is printed."""

import os
import sys

print(f"welcome to {os.environ['ROOM']}", flush=True)
for count, line in enumerate(sys.stdin, start=1):
    print(f"{count}: you said {line.strip()!r}", flush=True)
