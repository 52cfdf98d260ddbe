"""Answer every line. The room is this process: everyone in it gets what it prints."""

import os
import sys

print(f"welcome to {os.environ['ROOM']}", flush=True)
for count, line in enumerate(sys.stdin.buffer, start=1):
    print(f"{count}: you said {line.decode(errors='replace').strip()!r}", flush=True)
